"""Figures of probabilities against events, for many weightings of the rows at once; a bootstrap resample is one.

Every function takes ``weights`` [resample, row] and returns [resample]; NaN where a resample has only one class.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Events = npt.NDArray[np.bool_]
Strata = npt.NDArray[np.int64]

SMALLEST = 1e-6
"""Probabilities are kept this far from 0 and 1 where a logarithm is taken."""

FEWEST_LEVELS = 10
"""A candidate with fewer different probabilities, such as the prevalence of each fold, has no slope."""

_NEWTON_STEPS = 25
_CONVERGED = 1e-8
_STEEPEST = 10.0
"""A steeper calibration slope means that Newton's method diverges."""


def _curve(probability: Floats, event: Events, weights: Floats) -> tuple[Floats, Floats]:
    """Return the weights of events and of non-events at or above each distinct probability, from the highest down."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    sorted_weights = weights[:, order]
    events = np.cumsum(sorted_weights * event[order], axis=1)[:, ends]
    others = np.cumsum(sorted_weights * ~event[order], axis=1)[:, ends]
    return events, others


def auroc(probability: Floats, event: Events, weights: Floats, strata: Strata | None = None) -> Floats:
    """Return the area under the receiver operating characteristic; equal probabilities count half.

    With strata only rows of the same stratum are compared. Folds are such strata: the model of a fold with few events
    was trained on many, so that across folds even a constant prediction would look worse than chance.
    """
    right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in [None] if strata is None else np.unique(strata).tolist():
        mine = slice(None) if stratum is None else strata == stratum
        events, others = _curve(probability[mine], event[mine], weights[:, mine])
        before = np.pad(events, ((0, 0), (1, 0)))[:, :-1]
        right += (np.diff(others, axis=1, prepend=0.0) * (events + before) / 2).sum(axis=1)
        pairs += events[:, -1] * others[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(right / pairs)


def auprc(probability: Floats, event: Events, weights: Floats) -> Floats:
    """Return average precision: the area under the precision-recall curve, without interpolation."""
    events, others = _curve(probability, event, weights)
    steps = np.diff(events, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(events / (events + others))
        return np.asarray((steps * precision).sum(axis=1) / events[:, -1])


def brier(probability: Floats, event: Events, weights: Floats) -> Floats:
    """Return the mean squared difference between probability and event."""
    return np.asarray(weights @ (probability - event) ** 2 / weights.sum(axis=1))


def log_loss(probability: Floats, event: Events, weights: Floats) -> Floats:
    """Return the mean negative log-likelihood."""
    safe = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.asarray(weights @ -np.log(np.where(event, safe, 1 - safe)) / weights.sum(axis=1))


def observed_to_expected(probability: Floats, event: Events, weights: Floats) -> Floats:
    """Return the number of observed events for each predicted one."""
    return np.asarray((weights @ event.astype(np.float64)) / (weights @ probability))


def calibration_intercept(probability: Floats, event: Events, weights: Floats) -> Floats:
    """Return what must be added to the log-odds so that as many events are predicted as came; 0 is ideal."""
    found, _ = _recalibrate(_logit(probability), event, weights, with_slope=False)
    return found


def calibration_slope(probability: Floats, event: Events, weights: Floats) -> Floats:
    """Return the factor that the log-odds need; 1 is ideal, below: too extreme, above: too cautious."""
    log_odds = _logit(probability)
    if len(np.unique(probability)) < FEWEST_LEVELS:
        return np.full(len(weights), np.nan)
    _, found = _recalibrate(log_odds, event, weights, with_slope=True)
    return found


def _logit(probability: Floats) -> Floats:
    safe = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(safe / (1 - safe)))


def _recalibrate(log_odds: Floats, event: Events, weights: Floats, *, with_slope: bool) -> tuple[Floats, Floats]:
    """Return the most likely intercept and slope of the log-odds, by Newton's method; NaN where it diverges."""
    intercept, slope = np.zeros(len(weights)), np.ones(len(weights))
    for _ in range(_NEWTON_STEPS):
        linear = intercept[:, None] + slope[:, None] * log_odds
        fitted = 1 / (1 + np.exp(-np.clip(linear, -30, 30)))
        residual = weights * (event - fitted)
        curvature = weights * fitted * (1 - fitted)
        g0, h00 = residual.sum(axis=1), curvature.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            if with_slope:
                g1, h01 = residual @ log_odds, curvature @ log_odds
                h11 = curvature @ log_odds**2
                below = h00 * h11 - h01 * h01
                steps = np.array([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0]) / below
            else:
                steps = np.array([g0 / h00, np.zeros(len(weights))])
        steps = np.clip(steps, -2, 2)
        intercept, slope = intercept + steps[0], slope + steps[1]
        if np.nanmax(np.abs(steps), initial=0.0) < _CONVERGED:
            break
    away = ~(np.isfinite(intercept) & np.isfinite(slope) & (np.abs(slope) < _STEEPEST))
    one_class = (weights @ event == 0) | (weights @ ~event == 0)
    intercept[away | one_class], slope[away | one_class] = np.nan, np.nan
    return intercept, slope
