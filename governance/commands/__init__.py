"""The commands of compliance officers: rules, questions in SQL, tokens, keys, and a home's beginning."""
