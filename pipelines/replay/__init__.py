"""Messages that were put aside, taken up again: replayed through today's decoders and rules, or given up."""
