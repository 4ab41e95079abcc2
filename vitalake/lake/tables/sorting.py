"""Sorts rows in memory by integers only: text is ranked in its dictionary, which is a thousandth of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.datasets.dataset import IDENTIFYING, SUBJECT, Dataset

LOT_BITS = 16
"""Bits of a random number that decides between equal rows; with fewer bits too many rows would have the same."""


def repeating(dataset: Dataset) -> list[str]:
    """Return the columns with few values for many rows, which are read as dictionaries."""
    classes = IDENTIFYING | {SUBJECT.data_class}
    return [
        column.name
        for column in dataset.columns
        if column.type == pa.string() or (column.type == pa.binary() and column.data_class in classes)
    ]


def joined(batches: Sequence[pa.Table]) -> pa.Table:
    """Return the batches as one table with one dictionary a column; only indices are copied."""
    return pa.concat_tables(batches).unify_dictionaries()


def order_by(
    rows: pa.Table,
    keys: Sequence[str],
    *,
    first: npt.NDArray[np.integer[Any]] | None = None,
    last: npt.NDArray[np.integer[Any]] | None = None,
) -> npt.NDArray[np.intp]:
    """Return the order that sorts the rows by some columns, nulls first; equal rows keep their order.

    Args:
        rows: as ``joined`` returns them.
        keys: text, binary, integer or time columns, the most significant one first.
        first: numbers to sort by before all of them.
        last: numbers that decide between rows which are equal in all of them. Their order has no meaning, so only some
            of their bits are used where all would take long.
    """
    numbers: list[npt.NDArray[np.integer[Any]]] = [_numbers(rows[name]) for name in keys]
    if first is not None:
        numbers.insert(0, first)
    places = np.arange(rows.num_rows)
    if last is not None:
        numbers.append(_fitting_bits(last, beside=numbers, places=places))
    if not numbers or not rows.num_rows:
        return places
    # With the row numbers in the lowest bits a plain sort is enough; it takes a tenth of the time of a stable one.
    if (packed := _packed([*numbers, places])) is not None:
        packed.sort()
        return packed & ((1 << _width(places)) - 1)
    packed = _packed(numbers)
    return np.lexsort(numbers[::-1]) if packed is None else np.argsort(packed, kind="stable")


def _fitting_bits(
    last: npt.NDArray[np.integer[Any]], *, beside: Sequence[npt.NDArray[Any]], places: npt.NDArray[np.intp]
) -> npt.NDArray[Any]:
    """Return as many low bits of the numbers as fit into one integer with the others, if possible with the places."""
    if not len(places):
        return last
    room = 63 - sum(map(_width, beside))
    with_places = room - _width(places)
    room = with_places if with_places >= LOT_BITS else room
    return last & ((1 << room) - 1) if LOT_BITS <= room < 63 else last


def _width(column: npt.NDArray[np.integer[Any]]) -> int:
    return (int(column.max()) - int(column.min())).bit_length()


def _packed(numbers: Sequence[npt.NDArray[np.integer[Any]]]) -> npt.NDArray[np.int64] | None:
    """Return one integer for each row that sorts like all the numbers together; None: 63 bits are not enough."""
    widths = list(map(_width, numbers))
    if sum(widths) > 63:
        return None
    packed = np.zeros(len(numbers[0]), np.int64)
    for column, width in zip(numbers, widths, strict=True):
        packed <<= width
        packed |= column - int(column.min())
    return packed


def taken(columns: list[pa.ChunkedArray], names: Sequence[str], order: npt.NDArray[np.intp]) -> pa.Table:
    """Return all rows in an order, with one take a column: each take from a column of many chunks joins them first.

    Args:
        columns: this list is emptied on the way, so that only one more column is in memory and not a second table.
        names: the names of the columns.
        order: the new order of the rows.
    """
    indices = pa.array(order)
    return pa.table([columns.pop(0).take(indices) for _ in names], names=list(names))


def sort_by(rows: pa.Table, keys: Sequence[str], *, last: npt.NDArray[np.integer[Any]] | None = None) -> pa.Table:
    """Return the rows sorted by some columns, and by ``last`` where these are equal."""
    return rows.take(pa.array(order_by(rows, keys, last=last))) if keys or last is not None else rows


def no_order(rows: pa.Table, dataset: Dataset) -> npt.NDArray[np.int64] | None:
    """Return numbers for published rows whose order has no meaning; None: the dataset's rows are not made of messages.

    Rows of one message have the same number each time, the message's token. If the rules publish no token, the numbers
    are random.
    """
    name = next((column.name for column in dataset.columns if column.token_with), None)
    if name is None:
        return None
    tokens = rows[name]
    if tokens.null_count:
        return np.random.default_rng().integers(np.iinfo(np.int64).max, size=rows.num_rows)
    found: npt.NDArray[np.int64] = tokens.to_numpy()
    return found


def in_no_order(rows: pa.Table, dataset: Dataset) -> pa.Table:
    """Return published rows sorted by their time; rows of equal time are not in the order in which they came."""
    numbers = no_order(rows, dataset)
    return rows if numbers is None else sort_by(rows, [dataset.day_of] if dataset.day_of else [], last=numbers)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return integers that sort like the values, nulls first."""
    array = column.combine_chunks() if column.num_chunks else pa.nulls(0, column.type)
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
