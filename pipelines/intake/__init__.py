"""The steps from decoded rows to masked ones, and the feed of the online store beside them."""
