"""The history lane: loads a warehouse by one SELECT per dataset, through the live lane's masks, spans and ledger."""
