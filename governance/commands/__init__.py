"""The commands for compliance officers: make a home, check rules, query with SQL, manage keys, get tokens."""
