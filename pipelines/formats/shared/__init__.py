"""Code that all decoders share: rows, units, times, reasons, fingerprints."""
