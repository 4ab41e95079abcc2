"""Versions are published as they are where they count or date; else they rank within their record, and nowhere else."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from vitalake.lake.record_versions import MOST, RecordVersions, fits

times = st.integers(1_700_000_000_000_000, 1_900_000_000_000_000)
numbers = st.one_of(st.integers(-5, 20_000), st.integers(0, MOST), times)


@given(st.lists(st.tuples(numbers, st.sampled_from("abc")), min_size=1, max_size=30), st.booleans())
def test_the_versions_of_a_record_keep_their_order_and_counters_and_times_stay(
    rows: list[tuple[int, str]], encoded: bool
) -> None:
    names = pa.array([name for _, name in rows])
    given = names.dictionary_encode() if encoded else names
    versions = pa.array([version for version, _ in rows], pa.int64())
    made = RecordVersions(b"s" * 32)(versions, lambda: [given], of="a.version").to_pylist()
    good = fits(versions.to_numpy())
    for i, (first, name) in enumerate(rows):
        assert not good[i] or made[i] == first
        for k, (second, other) in enumerate(rows):
            if name == other and good[i] == good[k] and 0 <= first < second:
                assert made[i] < made[k]
            if name == other and good[i] and not good[k]:
                assert made[i] < made[k]


def test_numbers_that_rank_with_identifiers_do_not_when_they_are_published() -> None:
    names = sorted(random.Random(5).sample(range(10_000_000, 99_999_999), 2_000))
    texts = pa.array([str(name) for name in names])
    for versions in (names, range(5_000_000, 5_002_000)):  # the record number itself, and a transaction's
        made = RecordVersions(b"k" * 32)(pa.array(versions, pa.int64()), lambda: [texts], of="a.version").to_numpy()
        ranks = np.argsort(np.argsort(made))
        assert abs(np.corrcoef(ranks, np.arange(2_000))[0, 1]) < 4 / np.sqrt(2_000)
        assert not set(made.tolist()) & set(versions)


def test_nothing_stays_nothing_and_bytes_name_records_too() -> None:
    versions, names = pa.array([None, 77_777, 3], pa.int64()), pa.array([b"a", b"b", None], pa.binary())
    made = RecordVersions(b"k" * 32)(versions, lambda: [names], of="a.version")
    assert (made[0].as_py(), made[2].as_py()) == (None, 3)
    assert made[1].as_py() > 1 << 60
