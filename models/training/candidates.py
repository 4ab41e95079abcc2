"""The candidates: two models and three baselines, each fitted on some rows to give probabilities for others.

The parameters are the same for large and small data. They were chosen among a few settings by cross-validation on the
training patients of CinC 2012 sets A and B; held-out patients were not used for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.artefact import BoosterEstimator, Estimator, LinearColumn, LinearEstimator, LinearParameters, sigmoid
from models.artefact.estimator import Floats
from models.artefact.linear import standardise
from models.training.matrix import Matrix

SKEWED = 1.5
"""Above this skewness a feature that is never negative enters a linear model as its logarithm."""

RARELY_ABSENT = 0.005
"""If fewer rows than this share lack a value, a missing value has no weight of its own."""

PENALTY_INVERSE = 0.03
"""C of the logistic regression. For standardised features it is a prior: most weights lie within ± 0.17."""

BOOSTER: dict[str, Any] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.04,
    "subsample": 0.5,
    "colsample_bytree": 0.2,
    "reg_lambda": 5,
    "seed": 7,
}
ROUNDS = 400
"""Twice as many at half the rate gained 0.001 of AUROC on CinC 2012, and took twice as long for every score."""

EVENTS_PER_LEAF = 20
"""``min_child_weight`` is the number of events divided by this, limited to between 1 and 5."""

THREADS = 2
ROWS_FOR_THREADS = 5_000
"""With fewer rows threads wait for each other longer than they work, and for minutes on busy cores."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted candidate, which gives probabilities for other rows.

    Attributes:
        predict: rows → probabilities.
        estimator: the model that can be registered; None: a baseline.
    """

    predict: Callable[[Matrix], Floats]
    estimator: Estimator | None = None

    def __call__(self, rows: Matrix) -> Floats:
        """Return a probability for each row."""
        return self.predict(rows)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model or baseline that can be fitted.

    Attributes:
        name: as shown in tables and in MLflow.
        fit: rows → the fitted candidate.
        registrable: whether it is a model; False: a baseline.
        parameters: recorded in MLflow and on the card.
    """

    name: str
    fit: Callable[[Matrix], Fitted]
    registrable: bool
    parameters: dict[str, Any]


def candidates(names: tuple[str, ...]) -> list[Candidate]:
    """Return all baselines and models for these feature columns."""
    observed = names.index("hours_observed")

    def fitted(make: Callable[[Matrix, tuple[str, ...]], Estimator]) -> Callable[[Matrix], Fitted]:
        def fit(rows: Matrix) -> Fitted:
            estimator = make(rows, names)
            return Fitted(lambda others: sigmoid(estimator.log_odds(others.features)), estimator)

        return fit

    linear = {"C": PENALTY_INVERSE, "skewed_above": SKEWED, "absent_from": RARELY_ABSENT}
    return [
        Candidate("prevalence", _fit_prevalence, False, {}),
        Candidate("clock", _fit_single(lambda m: m.features[:, observed]), False, {"column": "hours_observed"}),
        Candidate("news2-partial", _fit_single(lambda m: m.news2), False, {"column": "partial NEWS2"}),
        Candidate("logistic-regression", fitted(fit_linear), True, linear),
        Candidate(
            "xgboost", fitted(fit_booster), True, BOOSTER | {"rounds": ROUNDS, "events_per_leaf": EVENTS_PER_LEAF}
        ),
    ]


def _fit_prevalence(rows: Matrix) -> Fitted:
    share = float(np.average(rows.event, weights=rows.weight))
    return Fitted(lambda others: np.full(len(others), share))


def _fit_single(column: Callable[[Matrix], Floats]) -> Callable[[Matrix], Fitted]:
    """Return a fit of one column alone, which turns a score into a probability and keeps its order."""

    def fit(rows: Matrix) -> Fitted:
        estimator = _linear(column(rows)[:, None], rows, ("score",), penalty_inverse=1.0, logarithm=False)
        return Fitted(lambda others: sigmoid(estimator.log_odds(column(others)[:, None])))

    return fit


def fit_linear(rows: Matrix, names: tuple[str, ...]) -> Estimator:
    """Return a logistic regression, fitted by scikit-learn and copied from it as numbers."""
    return _linear(rows.features, rows, names, penalty_inverse=PENALTY_INVERSE, logarithm=True)


def _linear(
    features: Floats, rows: Matrix, names: tuple[str, ...], *, penalty_inverse: float, logarithm: bool
) -> LinearEstimator:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    logarithms = _skewed(features) if logarithm else np.zeros(features.shape[1], np.bool_)
    logged = np.where(logarithms, np.log1p(np.maximum(features, 0.0)), features)
    absent = np.isnan(logged)
    with np.errstate(all="ignore"):
        fill = np.array(
            [np.median(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0.0 for column in logged.T]
        )
    filled = np.where(absent, fill, logged)
    mean, scale = filled.mean(axis=0), filled.std(axis=0)
    scale = np.where(scale > 1e-9 * np.maximum(np.abs(mean), 1.0), scale, 1.0)
    standard = standardise(features, logarithm=logarithms, fill=fill, mean=mean, scale=scale)
    rate = absent.mean(axis=0)
    counted = np.flatnonzero((rate >= RARELY_ABSENT) & (rate < 1))
    design = np.hstack([standard, (absent - rate)[:, counted]])
    found = LogisticRegression(C=penalty_inverse, max_iter=1_000).fit(design, rows.event, sample_weight=rows.weight)
    weights = found.coef_[0]
    absent_weights = np.zeros(len(names))
    absent_weights[counted] = weights[len(names) :]
    columns = [
        LinearColumn(
            name=name,
            logarithm=bool(logarithms[i]),
            fill=float(fill[i]),
            mean=float(mean[i]),
            scale=float(scale[i]),
            weight=float(weights[i]),
            absent_rate=float(rate[i]),
            absent_weight=float(absent_weights[i]),
        )
        for i, name in enumerate(names)
    ]
    return LinearEstimator(LinearParameters(float(found.intercept_[0]), columns))


def _skewed(features: Floats) -> npt.NDArray[np.bool_]:
    """Return which columns are skewed to the right and never negative."""
    found = np.zeros(features.shape[1], np.bool_)
    for i, column in enumerate(features.T):
        known = column[~np.isnan(column)]
        if len(known) > 2 and known.min() >= 0 and (spread := known.std()) > 0:
            found[i] = float((((known - known.mean()) / spread) ** 3).mean()) > SKEWED
    return found


def fit_booster(rows: Matrix, names: tuple[str, ...]) -> Estimator:
    """Return fitted gradient-boosted trees."""
    import xgboost

    threads = THREADS if len(rows) >= ROWS_FOR_THREADS else 1
    data = xgboost.DMatrix(rows.features, rows.event, weight=rows.weight, nthread=threads)
    leaf = float(np.clip((rows.weight * rows.event).sum() / EVENTS_PER_LEAF, 1.0, 5.0))
    settings = BOOSTER | {"nthread": threads, "min_child_weight": leaf}
    return BoosterEstimator(xgboost.train(settings, data, ROUNDS))
