"""Versions but 0 and 1 rank within their record, and nowhere else."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalake.lake.unlinkable.record_versions import BEHIND, MOST, STRETCHES, RecordVersions, versions_in_clear

LEAST, GREATEST = -(1 << 63), (1 << 63) - 1
times = st.integers(1_700_000_000_000_000, 1_900_000_000_000_000)
digits = st.integers(20_200_101_000_000_000, 20_400_101_000_000_000)
numbers = st.one_of(st.integers(-5, 20_000), st.integers(-MOST, MOST), times, digits)
near = st.tuples(numbers, st.integers(0, 3)).map(lambda pair: min(sum(pair), MOST))
"""Such as lie beside each other."""


def _published(versions: list[int], names: list[str], secret: bytes = b"k" * 32) -> npt.NDArray[np.int64]:
    made = RecordVersions(secret)(pa.array(versions, pa.int64()), lambda: [pa.array(names)], of="a.version")
    out: npt.NDArray[np.int64] = made.to_numpy()
    return out


def _counts(version: int) -> int:
    """Return what of a version counts: of the greatest the last bits do not."""
    most = STRETCHES[-2][0]
    return version if abs(version) <= most else (most + (abs(version) - most >> 10)) * (1 if version > 0 else -1)


@given(st.lists(st.tuples(near, st.sampled_from("abc")), min_size=1, max_size=30), st.booleans())
def test_the_versions_of_a_record_keep_their_order_and_0_and_1_stay(rows: list[tuple[int, str]], encoded: bool) -> None:
    names = pa.array([name for _, name in rows])
    given = names.dictionary_encode() if encoded else names
    versions = pa.array([version for version, _ in rows], pa.int64())
    made = RecordVersions(b"s" * 32)(versions, lambda: [given], of="a.version").to_pylist()
    assert not versions_in_clear(pa.array(made, pa.int64())).any()
    for i, (first, name) in enumerate(rows):
        assert (first in (0, 1)) == (-BEHIND < made[i] < BEHIND)
        assert first not in (0, 1) or made[i] == first
        for k, (second, other) in enumerate(rows):
            if name == other:
                first_, second_ = _counts(first), _counts(second)
                assert (made[i] > made[k]) - (made[i] < made[k]) == (first_ > second_) - (first_ < second_)


@given(st.binary(min_size=32, max_size=32))
def test_no_number_is_so_great_that_it_ends_before_others(secret: bytes) -> None:
    versions = [LEAST, LEAST + 1, -MOST, -MOST + 1, -1, 0, 1, 2, MOST - 1, MOST, GREATEST - 1, GREATEST]
    made = _published(versions, ["a"] * len(versions), secret).tolist()
    assert made == sorted(made)
    assert len(set(made)) == 8


@pytest.mark.parametrize(
    ("first", "step"), [(2, 1), (1_000, 1), (9_000_000, 1), (1_795_000_000, 40), (1_795_000_000_000_000, 40_000_000)]
)
def test_versions_that_rank_with_identifiers_do_not_when_they_are_published(first: int, step: int) -> None:
    names = [str(name) for name in sorted(random.Random(5).sample(range(10_000_000, 99_999_999), 2_000))]
    versions = range(first, first + 2_000 * step, step)  # counted, numbered, dated: a day of them
    made = _published([*versions], names)
    ranks = np.argsort(np.argsort(made))
    assert abs(np.corrcoef(ranks, np.arange(2_000))[0, 1]) < 4 / np.sqrt(2_000)
    assert not set(made.tolist()) & set(versions)


def test_a_record_number_that_is_given_as_version_does_not_rank_either() -> None:
    numbers = sorted(random.Random(5).sample(range(10_000_000, 99_999_999), 2_000))
    made = _published(numbers, [str(number) for number in numbers])
    assert abs(np.corrcoef(np.argsort(np.argsort(made)), np.arange(2_000))[0, 1]) < 4 / np.sqrt(2_000)


def test_two_changes_within_a_second_are_two_versions_where_the_source_writes_a_time_as_digits() -> None:
    """10:30:00.123, 10:30:00.789 and 10:30:01.001 were one version, and which of the rows was current was chance."""
    versions = [20_261_128_103_000_123, 20_261_128_103_000_789, 20_261_128_103_001_001]
    made = _published(versions, ["a"] * 3).tolist()
    assert made == sorted(set(made))


@pytest.mark.parametrize("first", [2, 5_000_000, 1_795_000_000_000, 1_795_000_000_000_000])
def test_what_lies_between_two_versions_is_not_what_lay_between_them(first: int) -> None:
    names = [f"{number:08}" for number in range(1_000)]
    gaps = _published([first + 600_000] * 1_000, names) - _published([first] * 1_000, names)
    assert gaps.min() >= 600_000
    assert len(set(gaps.tolist())) > 900
    assert np.log(gaps.astype(np.float64)).std() > 1.5  # e to that: a factor of more than four either way


def test_nothing_stays_nothing_and_bytes_name_records_too() -> None:
    versions, names = pa.array([None, 77_777, 1, 3], pa.int64()), pa.array([b"a", b"b", None, None], pa.binary())
    made = RecordVersions(b"k" * 32)(versions, lambda: [names], of="a.version")
    assert (made[0].as_py(), made[2].as_py()) == (None, 1)
    assert min(made[1].as_py(), made[3].as_py()) > 1 << 60
    assert (
        versions_in_clear(pa.array([0, 1, None, 2, -1, BEHIND, -BEHIND])).tolist()
        == [False] * 3 + [True] * 2 + [False] * 2
    )


@pytest.mark.parametrize(
    ("first", "step"),
    [
        (1_795_000_000_000_000, 40_000_000),
        (1_795_000_000_000_000_000, 40_000_000_000),
        (130_000_000_000_000_000, 4e8),
        (20_261_128_103_000_123, 61_003),
    ],
    ids=["microseconds", "nanoseconds", "ticks", "digits"],
)
def test_what_lies_between_two_versions_does_not_tell_the_order_of_the_second_ones(first: int, step: float) -> None:
    """All records were loaded at once, and changed in the order of their numbers: of nanoseconds the rank was 1.000."""
    names = [str(name) for name in sorted(random.Random(5).sample(range(10_000_000, 99_999_999), 500))]
    second = [first + int(step) * (i + 1) for i in range(500)]
    gaps = _published(second, names) - _published([first] * 500, names)
    ranks = np.argsort(np.argsort(gaps))
    assert abs(np.corrcoef(ranks, np.arange(500))[0, 1]) < 0.6
