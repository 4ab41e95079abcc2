"""Training: from published rows to a registered model, with the figures that say what it is worth."""
