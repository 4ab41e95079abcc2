"""The model registry: MLflow's, embedded. Training writes it through MLflow; serving reads it without MLflow."""

from models.registry.champion import CHAMPION, Champion, Discrimination, RegistryGone, champion, discrimination

__all__ = ["CHAMPION", "Champion", "Discrimination", "RegistryGone", "champion", "discrimination"]
