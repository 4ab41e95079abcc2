"""Messages that were put aside, taken up again: replayed through today's decoders and rules, or given up.

``replaying.replay(settings, actor=…, table="quarantine/held", kind="attribution", choice=Choice(device_keys=…))`` does
for held messages what it does for dead letters; ``writing.ReprocessWriter`` decides any outcomes of rows read before.
"""
