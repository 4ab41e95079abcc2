"""The declarations of datasets, and columns that are derived from others."""
