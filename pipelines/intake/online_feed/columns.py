"""Reads columns of decoded rows; a column that the query of a warehouse does not give is all nulls."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def numbers_of(rows: pa.RecordBatch, name: str) -> list[int | None]:
    """Return a column as integers, times as microseconds; nulls where the query gives none."""
    if name not in rows.schema.names:
        return [None] * rows.num_rows
    numbers: list[int | None] = rows[name].cast(pa.int64()).to_pylist()
    return numbers


def values_of(rows: pa.RecordBatch, name: str) -> list[Any]:
    """Return a column as Python has its values; nulls where the query gives none."""
    values: list[Any] = rows[name].to_pylist() if name in rows.schema.names else [None] * rows.num_rows
    return values


def texts_of(rows: pa.RecordBatch, name: str) -> list[str | None]:
    """Return a column's texts; nulls where the query gives none."""
    if name not in rows.schema.names:
        return [None] * rows.num_rows
    texts: list[str | None] = rows[name].to_pylist()
    return texts


def dictionary_of(column: pa.Array) -> pa.DictionaryArray:
    """Return a column dictionary-encoded."""
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
