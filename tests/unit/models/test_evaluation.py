"""Figures compared with scikit-learn's, and intervals that cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation import Evaluator, groups, reliability, resample
from models.evaluation import metrics as m
from models.evaluation.figures import estimate

_PAIRS = st.lists(st.tuples(st.sampled_from([0.01, 0.2, 0.2001, 0.5, 0.9]), st.booleans()), min_size=2, max_size=60)


def _sample(count: int = 800, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated probabilities, and events drawn from them."""
    random = np.random.default_rng(seed)
    probability = 1 / (1 + np.exp(-random.normal(-1.5, 1.2, count)))
    return probability, random.random(count) < probability


@given(pairs=_PAIRS, weights=st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_areas_and_losses_equal_scikit_learn_s(pairs: list[tuple[float, bool]], weights: list[int]) -> None:
    from sklearn.metrics import (  # type: ignore[import-untyped]
        average_precision_score,
        brier_score_loss,
        log_loss,
        roc_auc_score,
    )

    probability, event = np.array([p for p, _ in pairs]), np.array([e for _, e in pairs])
    weight = np.array(weights[: len(pairs)], np.float64)
    if (weight @ event) * (weight @ ~event) == 0:
        assert np.isnan(m.auroc(probability, event, weight[None])[0])
        return
    both = np.vstack([np.ones(len(pairs)), weight])
    for i, w in enumerate(both):
        assert m.auroc(probability, event, both)[i] == pytest.approx(roc_auc_score(event, probability, sample_weight=w))
        assert m.auprc(probability, event, both)[i] == pytest.approx(
            average_precision_score(event, probability, sample_weight=w)
        )
        assert m.brier(probability, event, both)[i] == pytest.approx(
            brier_score_loss(event, probability, sample_weight=w)
        )
        assert m.log_loss(probability, event, both)[i] == pytest.approx(log_loss(event, probability, sample_weight=w))


def test_only_rows_of_one_stratum_are_compared() -> None:
    probability = np.array([0.1, 0.1, 0.9, 0.9, 0.9])
    event = np.array([False, True, False, False, True])
    one = np.ones((1, 5))
    assert m.auroc(probability, event, one, np.array([0, 0, 1, 1, 1]))[0] == 0.5
    assert m.auroc(probability, event, one)[0] != 0.5


def test_right_probabilities_are_calibrated_and_bold_ones_are_not() -> None:
    probability, event = _sample(20_000)
    one = np.ones((1, len(event)))
    log_odds = np.log(probability / (1 - probability))
    bold = 1 / (1 + np.exp(-2 * log_odds))
    shifted = 1 / (1 + np.exp(-(log_odds + 1)))
    assert m.calibration_slope(probability, event, one)[0] == pytest.approx(1, abs=0.05)
    assert m.calibration_slope(bold, event, one)[0] == pytest.approx(0.5, abs=0.03)
    assert m.calibration_intercept(probability, event, one)[0] == pytest.approx(0, abs=0.05)
    assert m.calibration_intercept(shifted, event, one)[0] == pytest.approx(-1, abs=0.06)
    assert m.observed_to_expected(probability, event, one)[0] == pytest.approx(1, abs=0.03)


def test_a_constant_has_no_slope_and_no_discrimination() -> None:
    event = np.array([True, False] * 20)
    found = Evaluator(event, resample([str(i) for i in range(40)], count=50)).figures(np.full(40, 0.5))
    assert found["auroc"].value == 0.5
    assert found["calibration_slope"].value is None


def test_perfect_separation_does_not_run_away() -> None:
    event = np.arange(40) >= 20
    probability = np.where(event, 0.8, 0.2) + np.linspace(-0.01, 0.01, 40)
    assert np.isnan(m.calibration_slope(probability, event, np.ones((1, 40)))[0])


def test_resamples_draw_whole_patients() -> None:
    patients = [f"p{i // 3}" for i in range(30)]
    weights = resample(patients, count=200)
    assert weights.shape == (201, 30)
    assert (weights[0] == 1).all()
    assert (weights.reshape(201, 10, 3) == weights.reshape(201, 10, 3)[:, :, :1]).all()
    assert (weights.sum(axis=1) == 30).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = 0.7602  # the area for two normal distributions one standard deviation apart
    hits = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        event = np.arange(150) < 75
        score = random.normal(event.astype(float), 1)
        judge = Evaluator(event, resample([str(i) for i in range(150)], count=200, seed=seed))
        found = judge.figures(score, names=("auroc",))["auroc"]
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert hits >= 50


def test_a_figure_that_most_resamples_cannot_tell_has_no_interval() -> None:
    assert estimate(np.array([0.5, np.nan, np.nan, 0.5])).low is None
    assert estimate(np.array([np.nan, 0.5, 0.5])).value is None


def test_a_difference_is_over_the_same_resamples() -> None:
    probability, event = _sample()
    judge = Evaluator(event, resample([str(i) for i in range(len(event))], count=200))
    same = judge.difference("auroc", probability, probability)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_bins_are_never_smaller_than_eleven() -> None:
    probability, event = _sample(100)
    bins, error = reliability(probability, event)
    assert len(bins) == 9
    assert min(b.rows for b in bins) >= 11
    assert sum(b.rows for b in bins) == 100
    assert error is not None and 0 <= error < 0.5
    assert reliability(probability[:10], event[:10]) == ([], None)


def test_small_groups_are_not_shown() -> None:
    probability, event = _sample(400)
    female = np.where(np.arange(400) < 8, 1.0, 0.0)
    age = np.where(np.arange(400) < 30, 30.0, 70.0)
    judge = Evaluator(event, resample([str(i) for i in range(400)], count=100))
    found = {group.name: group for group in groups(probability, judge, age=age, female=female)}
    assert found["women"].rows is None
    assert found["men"].auroc is not None
    assert found["age under 50"].rows == 30
    assert found["age under 50"].events is None
    assert found["age 80 and older"].rows is None
