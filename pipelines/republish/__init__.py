"""Rewrites that need rules and keys: publishes identified rows again, repairs and upgrades the lake."""
