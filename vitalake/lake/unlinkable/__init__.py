"""How times, versions and positions are published, so that rows cannot be put into the order in which they came."""
