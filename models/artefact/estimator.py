"""The interface of all kinds of models: log-odds for a matrix, and the contribution of each feature for one row."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Estimator(Protocol):
    """A fitted model, without its name and version."""

    kind: ClassVar[str]
    file_name: ClassVar[str]

    def log_odds(self, matrix: Floats) -> Floats:
        """Return the log-odds of each row; a row gives the same number alone as among others."""
        ...

    def contributions(self, row: Floats) -> Floats:
        """Return what each feature adds to the log-odds of a row, compared with the average row."""
        ...

    def save(self, path: Path) -> None:
        """Write the parameters to a file that holds nothing but numbers and names."""
        ...


def sigmoid(log_odds: Floats) -> Floats:
    """Return the probabilities of log-odds, without overflow."""
    small = np.exp(-np.abs(log_odds))
    return np.where(log_odds >= 0, 1.0, small) / (1.0 + small)
