"""What all rooms of the lake share: settings, errors, keys, vocabulary, the lake itself and the command."""

__version__ = "0.1.0"
