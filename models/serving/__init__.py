"""Serving: the scoring endpoint and the ward board; every number shown comes from the same score record."""
