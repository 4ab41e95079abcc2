"""The feed of the online store and the vault: identified rows, before they are masked."""
