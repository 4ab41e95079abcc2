"""Serving: the scoring endpoint and the ward board; one score record behind every number shown."""
