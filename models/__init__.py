"""Risk models: features, tasks, training, evaluation, registry, scoring and serving."""
