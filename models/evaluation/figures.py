"""A candidate's figures with bootstrap intervals, from the same resamples of patients for every candidate."""

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
"""Resamples computed at once; with 8,000 rows an array takes 6 MB."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; None: it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None


Figures = dict[str, Estimate]


def resample(patients: Sequence[str], *, count: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return how often each row is in each resample of patients (with replacement); the first has every row once."""
    _, inverse = np.unique(np.asarray(patients), return_inverse=True)
    number = int(inverse.max()) + 1 if len(inverse) else 0
    random = np.random.default_rng(seed)
    drawn = random.multinomial(number, np.full(number, 1 / max(number, 1)), size=count).astype(np.float64)
    return np.vstack([np.ones(len(inverse)), drawn[:, inverse]])


class Evaluator:
    """Computes the figures of any candidate over the same rows and resamples."""

    def __init__(self, event: Events, weights: Floats, *, strata: Strata | None = None) -> None:
        """Take the events, the resamples (see ``resample``) and, for cross-validation, the folds as strata."""
        self.event, self.weights, self.strata = event, weights, strata

    def where(self, chosen: npt.NDArray[np.bool_]) -> Evaluator:
        """Return the evaluator of some rows; resamples that contain none of them are left out."""
        weights = self.weights[:, chosen]
        strata = None if self.strata is None else self.strata[chosen]
        return Evaluator(self.event[chosen], weights[weights.sum(axis=1) > 0], strata=strata)

    def figures(self, probability: Floats, *, names: Sequence[str] = tuple(FIGURES)) -> Figures:
        """Return the figures of a candidate with their intervals."""
        return {name: estimate(self._values(name, probability)) for name in names}

    def difference(self, name: str, one: Floats, other: Floats) -> Estimate:
        """Return the difference between two candidates' figures, with its interval."""
        return estimate(self._values(name, one) - self._values(name, other))

    def _values(self, name: str, probability: Floats) -> Floats:
        parts = [self.weights[i : i + _AT_ONCE] for i in range(0, len(self.weights), _AT_ONCE)]
        if name == "auroc":
            return np.concatenate([metrics.auroc(probability, self.event, part, self.strata) for part in parts])
        return np.concatenate([FIGURES[name](probability, self.event, part) for part in parts])


def estimate(resampled: Floats) -> Estimate:
    """Return the figure (the first resample) with the interval of the middle 95 % of the others."""
    drawn = resampled[1:][np.isfinite(resampled[1:])]
    if not np.isfinite(resampled[0]):
        return Estimate(None, None, None)
    if len(drawn) < len(resampled) / 2:
        return Estimate(float(resampled[0]), None, None)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(resampled[0]), float(low), float(high))
