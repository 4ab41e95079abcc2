"""The feature kernel: nothing but the known values of the wanted codes in the window, and their relative times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features import FeatureSet, features, parse_features
from models.features.kernel import SHORTEST_SLOPE_US, US_PER_HOUR
from vitalake.clinical.records import History, code_number

AS_OF = 1_760_000_000_000_000
MINUTE = 60_000_000
WINDOW = 24

SET = parse_features(
    {
        "items": {
            "pulse": {
                "label": "Pulse",
                "unit": "/min",
                "codes": ["8867-4", "8889-8"],
                "statistics": ["last", "first", "min", "max", "mean", "sum", "slope", "count", "hours_since"],
            },
            "lactate": {
                "label": "Lactate",
                "unit": "mmol/L",
                "codes": ["2524-7"],
                "statistics": ["last", "mean_6h", "count_6h", "slope_12h", "max_12h", "hours_since"],
            },
            "urine": {"label": "Urine", "unit": "mL", "codes": ["9187-6"], "statistics": ["sum", "sum_6h", "mean"]},
        },
        "derived": {"odd": {"label": "Odd", "unit": "", "ratio": ["pulse.last", "lactate.last"], "factor": 100}},
    },
    where="test",
)
CODES = ["8867-4", "8889-8", "2524-7", "9187-6"]
OTHERS = ["8480-6", "2339-0", "72514-3"]

# Few moments and values, so that ties, empty windows and values on a window's edge are the rule.
_ROW = st.tuples(
    st.sampled_from(CODES + OTHERS),
    st.one_of(st.sampled_from([0.0, 1.0, 7.4, 80.0, float("nan")]), st.floats(-1e3, 1e3)),
    st.integers(-30 * 4, 4).map(lambda quarter: quarter * 15),
    st.sampled_from([0, 0, 5, 90]),
)
_ROWS = st.lists(_ROW, max_size=40)


def _history(rows: list[tuple[str, float, int, int]], *, sort: bool = True, shift_us: int = 0) -> History:
    rows = sorted(rows, key=lambda r: r[2]) if sort else rows
    effective = np.array([AS_OF + minute * MINUTE + shift_us for _, _, minute, _ in rows], np.int64)
    return History(
        np.array([code_number(code) for code, *_ in rows], np.uint32),
        np.array([value for _, value, *_ in rows], np.float64),
        effective,
        effective + np.array([lag * MINUTE for *_, lag in rows], np.int64),
    )


def _vector(history: History, *, as_of_us: int = AS_OF, feature_set: FeatureSet = SET) -> np.ndarray:
    return features(feature_set, history, as_of_us=as_of_us, window_hours=WINDOW, age_years=63, sex="female")


COLUMNS = ("code", "value", "effective_us", "available_us")
LOWEST = {"8867-4": 10, "8889-8": 10, "2708-6": 10, "59408-5": 10, "8480-6": 20, "8462-4": 5, "8478-0": 10}
"""From where on a value is one; rates of breaths begin at 1."""


def _naive(rows: list[tuple[str, float, int, int]]) -> list[float]:
    """Return the same vector, row by row and column by column, as a reader would write it down."""
    nan = float("nan")
    found: dict[str, float] = {}
    everything: list[int] = []
    for item in SET.items:
        known = sorted(
            (minute, minute + lag, value)
            for code, value, minute, lag in rows
            if code in item.codes and -WINDOW * 60 < minute <= 0 and minute + lag <= 0 and np.isfinite(value)
            if value >= LOWEST.get(code, -np.inf)  # below it is an event
        )
        everything += [minute for minute, _, _ in known]
        for statistic in item.statistics:
            hours = statistic.hours or WINDOW
            chosen = [(minute / 60, value) for minute, _, value in known if minute > -hours * 60]
            values = [value for _, value in chosen]
            name = f"{item.name}.{statistic.name}{f'_{statistic.hours}h' if statistic.hours else ''}"
            if statistic.name == "count":
                found[name] = len(values)
            elif not values:
                found[name] = nan
            elif statistic.name == "slope":
                enough = (chosen[-1][0] - chosen[0][0]) * US_PER_HOUR >= SHORTEST_SLOPE_US
                found[name] = _slope(chosen) if enough else nan
            else:
                found[name] = {
                    "last": values[-1],
                    "first": values[0],
                    "min": min(values),
                    "max": max(values),
                    "mean": sum(values) / len(values),
                    "sum": sum(values),
                    "hours_since": -chosen[-1][0],
                }[statistic.name]
    found |= {"age": 63, "sex_female": 1, "hours_observed": -min(everything) / 60 if everything else nan}
    above, below = found["pulse.last"], found["lactate.last"]
    found["odd"] = nan if below == 0 else 100 * above / below
    return [found[name] for name in SET.names]


@given(rows=_ROWS)
def test_equals_a_naive_implementation(rows: list[tuple[str, float, int, int]]) -> None:
    np.testing.assert_allclose(_vector(_history(rows)), _naive(rows), rtol=1e-7, atol=1e-7, equal_nan=True)


@given(rows=_ROWS, random=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[tuple[str, float, int, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(_vector(_history(shuffled, sort=False)), _vector(_history(rows)))
    np.testing.assert_array_equal(_vector(_history(shuffled)), _vector(_history(rows)))


@given(rows=_ROWS, later=_ROWS, delay=st.integers(1, 10**9))
def test_what_is_known_or_true_later_does_not_matter(
    rows: list[tuple[str, float, int, int]], later: list[tuple[str, float, int, int]], delay: int
) -> None:
    before, extra = _history(rows), _history(later)
    known_later = replace(extra, available_us=np.maximum(extra.available_us, AS_OF + delay))
    true_later = replace(extra, effective_us=np.maximum(extra.effective_us, AS_OF + delay))
    for more in (known_later, true_later):
        both = _joined(before, more)
        np.testing.assert_array_equal(_vector(both), _vector(before))


@given(rows=_ROWS, shift_us=st.integers(-(2**50), 2**50))
def test_only_relative_times_enter(rows: list[tuple[str, float, int, int]], shift_us: int) -> None:
    moved = _history(rows, shift_us=shift_us)
    np.testing.assert_array_equal(_vector(moved, as_of_us=AS_OF + shift_us), _vector(_history(rows)))


@given(rows=_ROWS, others=st.lists(_ROW, max_size=20))
def test_other_codes_do_not_matter(
    rows: list[tuple[str, float, int, int]], others: list[tuple[str, float, int, int]]
) -> None:
    mine = [row for row in rows if row[0] in CODES]
    foreign = [row for row in others if row[0] in OTHERS]
    np.testing.assert_array_equal(_vector(_history(mine + foreign)), _vector(_history(mine)))


@given(rows=_ROWS)
def test_codes_beyond_the_table_do_not_matter(rows: list[tuple[str, float, int, int]]) -> None:
    history = _history(rows)
    huge = replace(history, code=np.where(np.isin(history.code, [24_80_6]), 99_999_999, history.code).astype(np.uint32))
    np.testing.assert_array_equal(_vector(huge), _vector(history))


@given(rows=_ROWS, column=st.integers(0, 5))
def test_a_set_of_fewer_items_gives_the_same_numbers(rows: list[tuple[str, float, int, int]], column: int) -> None:
    alone = FeatureSet((SET.items[1],))
    mine = [row for row in rows if row[0] in SET.items[1].codes]
    names = alone.names[column]
    small = _vector(_history(mine), feature_set=alone)[column]
    np.testing.assert_array_equal(small, _vector(_history(rows))[SET.names.index(names)])


def test_nothing_known_is_nan_and_a_count_of_zero() -> None:
    vector = _vector(_history([]))
    for name, value in zip(SET.names, vector.tolist(), strict=True):
        if ".count" in name:
            assert value == 0
        elif name not in ("age", "sex_female"):
            assert np.isnan(value), name


@pytest.mark.parametrize(("sex", "expected"), [("female", 1.0), ("male", 0.0), ("unknown", np.nan), ("", np.nan)])
def test_an_unknown_sex_or_age_is_nan(sex: str, expected: float) -> None:
    vector = features(SET, _history([]), as_of_us=AS_OF, window_hours=1, age_years=None, sex=sex)
    np.testing.assert_array_equal(vector[SET.names.index("sex_female")], expected)
    assert np.isnan(vector[SET.names.index("age")])


def _slope(chosen: list[tuple[float, float]]) -> float:
    times, values = np.array(chosen).T
    return float(np.polyfit(times, values, 1)[0])


def _joined(one: History, other: History) -> History:
    order = np.argsort(np.concatenate([one.effective_us, other.effective_us]), kind="stable")
    return History(*(np.concatenate([getattr(one, f), getattr(other, f)])[order] for f in COLUMNS))


def test_a_near_code_counts_as_its_item_and_a_rate_of_0_as_nothing() -> None:
    near = [("2518-9", 2.5, -30, 0), ("8893-0", 80.0, -20, 0)]
    general = _vector(_history([("2524-7", 2.5, -30, 0), ("8867-4", 80.0, -20, 0)]))
    np.testing.assert_array_equal(_vector(_history(near)), general)
    np.testing.assert_array_equal(_vector(_history([*near, ("8867-4", 0.0, -10, 0)])), general)
