"""What happens to rows that are there: compaction, replacement, deletion, retention, verify and repair."""
