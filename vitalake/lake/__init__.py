"""The lake: datasets, tables, spans (the decision and the ledger), rewrites. All commits go through here."""
