"""NEWS2 against the printed chart, at every boundary and between; and what is missing is never zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.news2 import MAX_AGE_HOURS, PARTS, News2, news2
from vitalake.care.records import History, code_number

AS_OF = 1_760_000_000_000_000
HOUR = 3_600_000_000

# Chart 1 of the report, transcribed anew: for every part (lowest, highest, points), in the chart's whole steps.
CHART: dict[str, tuple[str, float, list[tuple[float, float, int]]]] = {
    "respiratory_rate": ("9279-1", 1, [(1, 8, 3), (9, 11, 1), (12, 20, 0), (21, 24, 2), (25, 80, 3)]),
    "oxygen_saturation": ("59408-5", 1, [(50, 91, 3), (92, 93, 2), (94, 95, 1), (96, 100, 0)]),
    "systolic_pressure": ("8480-6", 1, [(30, 90, 3), (91, 100, 2), (101, 110, 1), (111, 219, 0), (220, 300, 3)]),
    "pulse": ("8867-4", 1, [(20, 40, 3), (41, 50, 1), (51, 90, 0), (91, 110, 1), (111, 130, 2), (131, 250, 3)]),
    "consciousness": ("9269-2", 1, [(3, 14, 3), (15, 15, 0)]),
    "temperature": (
        "8310-5",
        0.1,
        [(30.0, 35.0, 3), (35.1, 36.0, 1), (36.1, 38.0, 0), (38.1, 39.0, 1), (39.1, 43.0, 2)],
    ),
}
_BOUNDARIES = [
    (part, code, value, points)
    for part, (code, _, bands) in CHART.items()
    for low, high, points in bands
    for value in (low, high)
]
NORMAL = {"9279-1": 16, "2708-6": 98, "8480-6": 120, "8867-4": 70, "9269-2": 15, "8310-5": 37.0, "3150-6": 21}


def _history(*rows: tuple[str, float, float]) -> History:
    """Return rows of (code, value, hours before)."""
    rows = tuple(sorted(rows, key=lambda r: -r[2]))
    times = np.array([AS_OF - int(hours * HOUR) for *_, hours in rows], np.int64)
    codes = np.array([code_number(code) for code, *_ in rows], np.uint32)
    return History(codes, np.array([value for _, value, _ in rows], np.float64), times, times)


def _score(*rows: tuple[str, float, float]) -> News2:
    return news2(_history(*rows), as_of_us=AS_OF)


@pytest.mark.parametrize(("part", "code", "value", "points"), _BOUNDARIES)
def test_every_boundary_of_the_chart(part: str, code: str, value: float, points: int) -> None:
    score = _score((code, value, 1))
    assert score.parts[part] == points == score.total
    assert score.partial
    assert set(score.missing) == set(PARTS) - {part}


@pytest.mark.parametrize(("part", "code", "value", "points"), _BOUNDARIES)
def test_a_value_off_the_grid_counts_as_the_nearest_step(part: str, code: str, value: float, points: int) -> None:
    step = CHART[part][1]
    for off in (-0.49, 0.49):
        assert _score((code, value + off * step, 1)).parts[part] == points


@pytest.mark.parametrize("part", list(CHART))
@given(share=st.floats(0, 1))
def test_between_the_boundaries_the_points_are_the_band_s(part: str, share: float) -> None:
    code, _, bands = CHART[part]
    for low, high, points in bands:
        assert _score((code, min(low + share * (high - low), high), 1)).parts[part] == points


@pytest.mark.parametrize(
    ("code", "value", "points"),
    [("3151-8", 0, 0), ("3151-8", 0.5, 2), ("3150-6", 21, 0), ("3150-6", 21.5, 2), ("3150-6", 100, 2)],
)
def test_oxygen_is_given_by_flow_or_by_more_than_room_air(code: str, value: float, points: int) -> None:
    assert _score((code, value, 1)).parts["supplemental_oxygen"] == points


def test_the_later_of_flow_and_fraction_counts() -> None:
    assert _score(("3150-6", 60, 3), ("3151-8", 0, 1)).parts["supplemental_oxygen"] == 0
    assert _score(("3151-8", 0, 3), ("3150-6", 60, 1)).parts["supplemental_oxygen"] == 2
    assert _score(("3151-8", 0, 1), ("3150-6", 60, 1)).parts["supplemental_oxygen"] == 2


def test_all_parts_known_and_normal_is_a_whole_zero() -> None:
    score = _score(*((code, value, 1) for code, value in NORMAL.items()))
    assert score.total == 0
    assert not score.partial
    assert score.missing == ()
    assert not score.red


def test_nothing_known_has_no_total() -> None:
    score = _score()
    assert score.total is None
    assert score.missing == PARTS
    assert set(score.parts.values()) == {None}


@given(missing=st.sets(st.sampled_from(sorted(NORMAL))))
def test_a_missing_part_is_named_and_never_filled(missing: set[str]) -> None:
    score = _score(*((code, value, 1) for code, value in NORMAL.items() if code not in missing))
    assert len(score.missing) == len(missing)
    assert all((score.parts[part] is None) == (part in score.missing) for part in PARTS)
    assert score.partial == bool(missing)


@given(old=st.floats(20, 250), new=st.floats(20, 250), code=st.sampled_from(["8867-4", "8889-8"]))
def test_the_latest_value_counts_whatever_came_before(old: float, new: float, code: str) -> None:
    assert _score(("8867-4", old, 5), (code, new, 1)).parts == _score((code, new, 1)).parts


def test_an_old_value_does_not_count() -> None:
    assert _score(("8867-4", 140, MAX_AGE_HOURS)).total is None
    assert _score(("8867-4", 140, MAX_AGE_HOURS - 0.01)).total == 3


def test_what_is_known_later_does_not_count() -> None:
    history = _history(("8867-4", 70, 2), ("8867-4", 140, 1))
    late = History(history.code, history.value, history.effective_us, history.available_us + np.array([0, 2 * HOUR]))
    assert news2(late, as_of_us=AS_OF).total == 0
    assert news2(late, as_of_us=AS_OF + HOUR).total == 3


def test_of_values_of_one_moment_the_worst_counts_in_any_order() -> None:
    for first, second in ((70, 140), (140, 70)):
        assert _score(("8867-4", first, 1), ("8889-8", second, 1)).total == 3


def test_one_part_with_three_points_is_red() -> None:
    assert _score(("9279-1", 30, 1)).red
    assert not _score(("9279-1", 22, 1)).red


def test_a_value_that_is_no_number_does_not_count() -> None:
    assert _score(("8867-4", math.nan, 1)).total is None
