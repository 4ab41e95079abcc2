"""Reprocesses messages of the quarantine: replays them with today's decoders and rules, or discards them.

``dead_letters.replay`` replays dead letters, and with another table and kind also held messages.
``writing.ReprocessWriter`` commits the rows of messages that were read before.
"""
