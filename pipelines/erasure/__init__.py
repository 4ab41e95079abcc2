"""Erasure: a patient is forgotten on request; the key first, then every row, then a certificate that says so."""
