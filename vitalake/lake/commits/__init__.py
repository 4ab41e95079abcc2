"""What commits decide: spans, positions, the ledger, the format, and the lake's zones."""
