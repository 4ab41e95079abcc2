"""Erases a patient on request: first the key, then every row, and last a certificate of what was done."""
