"""The steps that turn decoded rows into masked ones, and the feed of the online store and the vault."""
