"""Model artefacts: native formats and plain numbers, never pickle; checked by digest, loaded without training code."""

from models.artefact.booster import BoosterEstimator
from models.artefact.estimator import Estimator, sigmoid
from models.artefact.linear import LinearColumn, LinearEstimator, LinearParameters
from models.artefact.model import Manifest, Model, digest_of, load, save

__all__ = [
    "BoosterEstimator",
    "Estimator",
    "LinearColumn",
    "LinearEstimator",
    "LinearParameters",
    "Manifest",
    "Model",
    "digest_of",
    "load",
    "save",
    "sigmoid",
]
