"""Masking rules: reads and checks them, and applies them to rows."""
