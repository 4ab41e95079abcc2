"""Risk models: features, training, evaluation and serving. Nothing here yet: issue by issue, from the lake up."""
