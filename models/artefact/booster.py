"""Gradient-boosted trees in XGBoost's own binary format; contributions by TreeSHAP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from models.artefact.estimator import Floats
from vitalake.errors import ModelError

if TYPE_CHECKING:
    from xgboost import Booster


class BoosterEstimator:
    """Gradient-boosted trees, with one thread: for a single row more threads only wait for each other."""

    kind: ClassVar[str] = "xgboost"
    file_name: ClassVar[str] = "booster.ubj"

    def __init__(self, booster: Booster) -> None:
        self._booster = booster
        self._booster.set_param({"nthread": 1, "device": "cpu"})

    @classmethod
    def load(cls, path: Path) -> BoosterEstimator:
        """Return the model of a file. The caller has checked its digest, because XGBoost's reader trusts its input.

        Raises:
            ModelError: the file is not a model, or XGBoost is not installed.
        """
        try:
            from xgboost import Booster
            from xgboost.core import XGBoostError
        except ImportError:
            raise ModelError(
                "XGBoost is not installed", where=path.name, remedy="Install vitalake[serving] or vitalake[models]."
            ) from None
        booster = Booster()
        try:
            booster.load_model(bytearray(path.read_bytes()))
        except (OSError, XGBoostError) as error:
            raise ModelError(
                f"Parameters cannot be read ({type(error).__name__})", where=path.name, remedy="Train the model again."
            ) from None
        return cls(booster)

    def save(self, path: Path) -> None:
        """Write the trees as Universal Binary JSON."""
        path.write_bytes(self._booster.save_raw("ubj"))

    @staticmethod
    def _data(matrix: Floats) -> Any:
        from xgboost import DMatrix

        return DMatrix(matrix, nthread=1)

    def log_odds(self, matrix: Floats) -> Floats:
        """Return the log-odds of each row, in single precision as XGBoost computes them."""
        return np.asarray(self._booster.predict(self._data(matrix), output_margin=True), np.float64)

    def contributions(self, row: Floats) -> Floats:
        """Return the Shapley values of a row's features."""
        found = self._booster.predict(self._data(row[np.newaxis]), pred_contribs=True)
        return np.asarray(found[0, :-1], np.float64)
