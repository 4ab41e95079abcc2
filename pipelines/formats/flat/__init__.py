"""Device JSON by a profile."""
