"""Rewrites that need rules and keys: published rows made anew of identified ones."""
