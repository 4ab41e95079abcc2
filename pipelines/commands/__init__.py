"""The commands of data engineers: streams, history, the lake's care, devices, dead letters, patients."""
