"""All numbers and pseudonyms of one person, and the filter of messages about erased patients."""
