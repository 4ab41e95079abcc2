"""The history lane: from a warehouse, by one SQL SELECT a dataset, through the same masks, spans and ledger."""
