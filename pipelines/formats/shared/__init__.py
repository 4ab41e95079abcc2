"""What the decoders share: rows, units, times, reasons, fingerprints."""
