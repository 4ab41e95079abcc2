"""Training: from published rows to a registered model, with the figures of its evaluation."""
