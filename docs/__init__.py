"""The documentation's tools: what is generated from the code, and whether it is fresh."""
