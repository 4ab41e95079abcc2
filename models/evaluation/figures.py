"""A candidate's figures, each with its interval: resamples of patients, the same ones for every candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from models.evaluation import metrics
from models.evaluation.metrics import Events, Floats, Strata

FIGURES: dict[str, Callable[[Floats, Events, Floats], Floats]] = {
    "auroc": metrics.auroc,
    "auprc": metrics.auprc,
    "brier": metrics.brier,
    "log_loss": metrics.log_loss,
    "calibration_slope": metrics.calibration_slope,
    "calibration_intercept": metrics.calibration_intercept,
    "observed_to_expected": metrics.observed_to_expected,
}

RESAMPLES = 1_000
LEVEL = 0.95
_AT_ONCE = 100
"""Resamples computed at once: 8,000 rows take 6 MB an array."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; None: cannot be told."""

    value: float | None
    low: float | None
    high: float | None


Figures = dict[str, Estimate]


def resample(patients: Sequence[str], *, count: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return how often each row is in each resample of the patients with replacement; the first is all rows."""
    _, inverse = np.unique(np.asarray(patients), return_inverse=True)
    number = int(inverse.max()) + 1 if len(inverse) else 0
    random = np.random.default_rng(seed)
    drawn = random.multinomial(number, np.full(number, 1 / max(number, 1)), size=count).astype(np.float64)
    return np.vstack([np.ones(len(inverse)), drawn[:, inverse]])


class Judge:
    """Computes figures of probabilities for the same rows and resamples, whatever the candidate."""

    def __init__(self, event: Events, weights: Floats, *, strata: Strata | None = None) -> None:
        """Take what came, the resamples (see ``resample``) and, of cross-validation, the folds."""
        self.event, self.weights, self.strata = event, weights, strata

    def where(self, chosen: npt.NDArray[np.bool_]) -> Judge:
        """Return the judge of some rows; resamples in which none of them is drawn say nothing, and are left out."""
        weights = self.weights[:, chosen]
        strata = None if self.strata is None else self.strata[chosen]
        return Judge(self.event[chosen], weights[weights.sum(axis=1) > 0], strata=strata)

    def figures(self, probability: Floats, *, names: Sequence[str] = tuple(FIGURES)) -> Figures:
        """Return figures of a candidate with their intervals."""
        return {name: estimate(self._values(name, probability)) for name in names}

    def difference(self, name: str, one: Floats, other: Floats) -> Estimate:
        """Return by how much a candidate's figure is above another's."""
        return estimate(self._values(name, one) - self._values(name, other))

    def _values(self, name: str, probability: Floats) -> Floats:
        parts = [self.weights[i : i + _AT_ONCE] for i in range(0, len(self.weights), _AT_ONCE)]
        if name == "auroc":
            return np.concatenate([metrics.auroc(probability, self.event, part, self.strata) for part in parts])
        return np.concatenate([FIGURES[name](probability, self.event, part) for part in parts])


def estimate(resampled: Floats) -> Estimate:
    """Return the figure (the first) with the interval in which the middle 95 % of the others lie."""
    drawn = resampled[1:][np.isfinite(resampled[1:])]
    if not np.isfinite(resampled[0]):
        return Estimate(None, None, None)
    if len(drawn) < len(resampled) / 2:
        return Estimate(float(resampled[0]), None, None)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(resampled[0]), float(low), float(high))
