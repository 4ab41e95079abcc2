"""All numbers and pseudonyms of one person, and messages about people who were erased."""
