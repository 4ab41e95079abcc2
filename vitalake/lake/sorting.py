"""Sorting rows in memory, by integers only: text is ranked in its dictionary, which is a thousandth of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.dataset import IDENTIFYING, SUBJECT, Dataset


def repeating(dataset: Dataset) -> list[str]:
    """Return the columns that have few values for many rows, and are read as dictionaries."""
    classes = IDENTIFYING | {SUBJECT.data_class}
    return [
        column.name
        for column in dataset.columns
        if column.type == pa.string() or (column.type == pa.binary() and column.data_class in classes)
    ]


def joined(batches: Sequence[pa.Table]) -> pa.Table:
    """Return the batches as one table of one chunk a column; equal text stands in one dictionary."""
    return pa.concat_tables(batches).unify_dictionaries().combine_chunks()


def order_by(
    rows: pa.Table, keys: Sequence[str], *, first: npt.NDArray[np.integer[Any]] | None = None
) -> npt.NDArray[np.intp]:
    """Return the order of the rows by some columns, nulls first; equal rows stay as they lie.

    Args:
        rows: of one chunk a column.
        keys: text, binary, integer or time columns, the most significant one first.
        first: numbers that come before all of them.
    """
    numbers: list[npt.NDArray[np.integer[Any]]] = [_numbers(rows[name]) for name in reversed(keys)]
    if first is not None:
        numbers.append(first)
    return np.lexsort(numbers) if numbers else np.arange(rows.num_rows)


def sort_by(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return the rows in the order of some columns."""
    return rows.take(pa.array(order_by(rows, keys))) if keys else rows


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return integers in the order of the values; null is the least."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.nulls(0, column.type)
    if not pa.types.is_temporal(array.type) and not pa.types.is_integer(array.type):
        return _ranks(array if pa.types.is_dictionary(array.type) else array.dictionary_encode())
    bits = pa.int32() if array.type.bit_width == 32 else pa.int64()
    numbers = array.cast(bits) if pa.types.is_temporal(array.type) else array
    least = np.iinfo(np.int64).min
    found: npt.NDArray[np.int64] = numbers.cast(pa.int64()).fill_null(least).to_numpy(zero_copy_only=False)
    return found


def _ranks(encoded: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order) + 1, np.int64)
    ranks[order] = np.arange(len(order))
    ranks[-1] = -1
    found: npt.NDArray[np.int64] = ranks[encoded.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)]
    return found
