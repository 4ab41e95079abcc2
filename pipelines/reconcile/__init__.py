"""Rows whose patient becomes known, or changes, after they were written."""
