"""Masking rules: how they are written, checked and applied."""
