"""From the bytes of a message to rows: one decoder a format, one shape of result."""
