"""Linear artefacts: any finite parameters go through JSON to the bit, and any row gives a finite score."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.artefact import LinearColumn, LinearEstimator, LinearParameters, sigmoid

_NUMBER = st.floats(-1e6, 1e6, allow_nan=False)
_COLUMN = st.builds(
    LinearColumn,
    name=st.text("abc._", min_size=1, max_size=8),
    logarithm=st.booleans(),
    fill=_NUMBER,
    mean=_NUMBER,
    scale=st.floats(1e-3, 1e6),
    weight=st.floats(-10, 10),
    absent_rate=st.floats(0, 1),
    absent_weight=st.floats(-10, 10),
)
_PARAMETERS = st.builds(
    LinearParameters, intercept=st.floats(-20, 20), columns=st.lists(_COLUMN, min_size=1, max_size=6)
)
_VALUE = st.one_of(st.just(float("nan")), st.floats(-1e9, 1e9))


@given(parameters=_PARAMETERS, data=st.data())
def test_numbers_go_through_json_to_the_bit(tmp_path: Path, parameters: LinearParameters, data: st.DataObject) -> None:
    width = len(parameters.columns)
    matrix = np.array(data.draw(st.lists(st.lists(_VALUE, min_size=width, max_size=width), min_size=1, max_size=5)))
    fitted = LinearEstimator(parameters)
    fitted.save(tmp_path / "linear.json")
    loaded = LinearEstimator.load(tmp_path / "linear.json")
    np.testing.assert_array_equal(loaded.log_odds(matrix), fitted.log_odds(matrix))
    assert np.isfinite(loaded.log_odds(matrix)).all()


@given(parameters=_PARAMETERS, data=st.data())
def test_a_row_alone_and_its_terms_give_the_same(parameters: LinearParameters, data: st.DataObject) -> None:
    width = len(parameters.columns)
    matrix = np.array(data.draw(st.lists(st.lists(_VALUE, min_size=width, max_size=width), min_size=1, max_size=5)))
    estimator = LinearEstimator(parameters)
    together = estimator.log_odds(matrix)
    for row, expected in zip(matrix, together, strict=True):
        assert estimator.log_odds(row[None])[0] == expected
        total = estimator.contributions(row).sum() + parameters.intercept
        np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-9)


@given(log_odds=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_probabilities_are_in_order_and_between_none_and_one(log_odds: list[float]) -> None:
    ordered = np.sort(np.array(log_odds))
    found = sigmoid(ordered)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()
    exact = [1 / (1 + math.exp(-x)) if x > -700 else 0.0 for x in ordered]
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-300)
