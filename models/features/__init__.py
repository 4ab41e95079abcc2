"""Features: declared as data, computed by one kernel for both training and serving."""

from models.features.declaration import Derived, FeatureSet, Item, Statistic, parse_features
from models.features.kernel import features

__all__ = ["Derived", "FeatureSet", "Item", "Statistic", "features", "parse_features"]
