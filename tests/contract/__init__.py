"""What every implementation of an interface is put through; other packages have it from a checkout, as ``tests``."""
