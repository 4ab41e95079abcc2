"""What every kind of model can do: log-odds for a matrix of features, and what each feature adds for one row."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Estimator(Protocol):
    """A fitted model, without its names and versions."""

    kind: ClassVar[str]
    file_name: ClassVar[str]

    def log_odds(self, matrix: Floats) -> Floats:
        """Return the log-odds of each row; a row gives the same number alone as among others."""
        ...

    def contributions(self, row: Floats) -> Floats:
        """Return what each feature adds to the log-odds of a row, against the average row."""
        ...

    def save(self, path: Path) -> None:
        """Write the parameters to a file that holds nothing but numbers and names."""
        ...


def sigmoid(log_odds: Floats) -> Floats:
    """Return probabilities; does not overflow."""
    small = np.exp(-np.abs(log_odds))
    return np.where(log_odds >= 0, 1.0, small) / (1.0 + small)
