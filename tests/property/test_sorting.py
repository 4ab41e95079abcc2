"""Rows are sorted as Python sorts them, whatever room their numbers take; what is equal stays as it lies, or by lot."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from vitalake.lake.tables.sorting import order_by

WIDTHS = (0, 1, 20, 45, 50, 62)
"""Bits of a column: with some all fits into one integer with the rows' places, with some without, with some not."""


@st.composite
def _columns(draw: st.DrawFn) -> tuple[list[int | None], list[str | None], int]:
    most = (1 << draw(st.sampled_from(WIDTHS))) - 1
    times = draw(st.lists(st.none() | st.sampled_from([0, most]) | st.integers(0, most), max_size=40))
    codes = draw(st.lists(st.none() | st.sampled_from("abc"), min_size=len(times), max_size=len(times)))
    return times, codes, draw(st.integers(0, 2**32))


@given(_columns())
def test_equal_rows_stay_as_they_lie(columns: tuple[list[int | None], list[str | None], int]) -> None:
    times, codes, _ = columns
    rows = pa.table({"at": pa.array(times, pa.int64()), "code": pa.array(codes, pa.string()).dictionary_encode()})
    keys = [(-1 if at is None else at, code or "") for at, code in zip(times, codes, strict=True)]
    assert order_by(rows, ["at", "code"]).tolist() == sorted(range(len(times)), key=keys.__getitem__)


@given(_columns())
def test_lots_decide_only_where_the_columns_are_equal(columns: tuple[list[int | None], list[str | None], int]) -> None:
    times, _, seed = columns
    lots = np.random.default_rng(seed).integers(-(1 << 62), 1 << 62, size=len(times))
    order = order_by(pa.table({"at": pa.array(times, pa.int64())}), ["at"], last=lots).tolist()
    assert sorted(order) == list(range(len(times)))
    sorted_times = [-1 if times[row] is None else times[row] for row in order]
    assert sorted_times == sorted(sorted_times)
