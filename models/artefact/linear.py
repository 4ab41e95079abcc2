"""Logistic regression as plain numbers: logarithm, fill, standardise, sum. Needs NumPy only."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from models.artefact.estimator import Floats
from vitalake.errors import ModelError

CLIP = 4.0
"""Values are clipped at this many standard deviations, so that one absurd value cannot decide."""


class LinearColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one feature is transformed and weighted. All numbers are aggregates of many patients, never a value of one.

    Attributes:
        logarithm: whether log(1 + x) is taken, for features that are skewed to the right and never negative.
        fill: replaces an unknown value: the median, after the logarithm.
        mean, scale: standardise the value after that; it is then clipped to ± CLIP.
        weight: in log-odds per standard deviation.
        absent_rate, absent_weight: the share of rows without a value, and the weight of a missing value.
    """

    name: str
    logarithm: bool
    fill: float
    mean: float
    scale: float
    weight: float
    absent_rate: float
    absent_weight: float


class LinearParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All numbers of a logistic regression; ``intercept`` is the log-odds of the average row."""

    intercept: float
    columns: list[LinearColumn]


def standardise(
    matrix: Floats, *, logarithm: npt.NDArray[np.bool_], fill: Floats, mean: Floats, scale: Floats
) -> Floats:
    """Return the standardised features, which the weights apply to; both fitting and scoring call this function."""
    logged = np.where(logarithm, np.log1p(np.maximum(matrix, 0.0)), matrix)
    filled = np.where(np.isnan(logged), fill, logged)
    return np.clip((filled - mean) / scale, -CLIP, CLIP)


class LinearEstimator:
    """Logistic regression over standardised features with indicators of absence."""

    kind: ClassVar[str] = "logistic-regression"
    file_name: ClassVar[str] = "linear.json"

    def __init__(self, parameters: LinearParameters) -> None:
        self.parameters = parameters

    @classmethod
    def load(cls, path: Path) -> LinearEstimator:
        """Return the model of a file.

        Raises:
            ModelError: the file is not a model, or a number in it is not finite.
        """
        try:
            parameters = msgspec.json.decode(path.read_bytes(), type=LinearParameters)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ModelError(
                f"Parameters cannot be read ({type(error).__name__})", where=path.name, remedy="Train the model again."
            ) from None
        return cls(parameters)

    def save(self, path: Path) -> None:
        """Write the numbers as JSON; floats read back as exactly the same numbers."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self.parameters), indent=1))

    @cached_property
    def _numbers(self) -> dict[str, Any]:
        columns = self.parameters.columns
        return {
            name: np.array([getattr(column, name) for column in columns])
            for name in LinearColumn.__struct_fields__
            if name != "name"
        }

    def terms(self, matrix: Floats) -> Floats:
        """Return what each feature of each row adds to the log-odds."""
        n = self._numbers
        absent = np.isnan(matrix)
        standard = standardise(matrix, logarithm=n["logarithm"], fill=n["fill"], mean=n["mean"], scale=n["scale"])
        return np.asarray(standard * n["weight"] + (absent - n["absent_rate"]) * n["absent_weight"])

    def log_odds(self, matrix: Floats) -> Floats:
        """Return the log-odds of each row.

        Each row is summed by itself: NumPy sums along the last axis in the same order, whatever the number of rows.
        """
        return np.asarray(np.ascontiguousarray(self.terms(matrix)).sum(axis=1) + self.parameters.intercept)

    def contributions(self, row: Floats) -> Floats:
        """Return what each feature adds to the log-odds of a row."""
        return np.asarray(self.terms(row[np.newaxis])[0])
