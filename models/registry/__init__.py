"""The registry: MLflow's, embedded. Who serves reads it without MLflow; who trains writes it through MLflow."""

from models.registry.champion import CHAMPION, Champion, Discrimination, RegistryGone, champion, discrimination

__all__ = ["CHAMPION", "Champion", "Discrimination", "RegistryGone", "champion", "discrimination"]
