"""The commands of data scientists and clinicians' apps: train, score, serve, approve; and the demo of all of it."""
