"""Reads devices' own JSON by a profile."""
