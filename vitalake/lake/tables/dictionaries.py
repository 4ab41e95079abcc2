"""Removes unused values from dictionaries: Parquet writes a column's whole dictionary, used or not.

A filter or a slice keeps the dictionary of all rows. Written like this, a file would hold the pseudonyms of patients
whose rows were dropped, and values of rejected messages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def in_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Return the schema with all text in dictionaries, as ``read_file`` returns it: each value once for many rows."""
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([field.with_type(text) if field.type == pa.string() else field for field in schema])


def as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the column cast to a type; either type may be a dictionary."""
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind):
        return as_type(column, kind.value_type).dictionary_encode()
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return plain.cast(kind)


def without_unused(rows: pa.Table, *, in_order: bool = False) -> pa.Table:
    """Return equal rows whose dictionaries hold only values that these rows use.

    Args:
        rows: of any table.
        in_order: whether to sort the values of the dictionaries; else they keep the order in which rows first had them.
    """
    for place, field in enumerate(rows.schema):
        if not pa.types.is_dictionary(field.type):
            continue
        column = rows.column(place)
        whole = column.unify_dictionaries().combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        rows = rows.set_column(place, field.name, _pruned(whole, in_order=in_order))
    return rows


def unified(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Return the rows of batches with one dictionary for each column; with several, Parquet writes plain text.

    A dictionary may hold a null in the place of a refused value; such dictionaries cannot be unified and are rebuilt.
    """
    rows = pa.Table.from_batches(batches)
    for place, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type) and any(c.dictionary.null_count for c in rows.column(place).chunks):
            plain = rows.column(place).cast(field.type.value_type)
            rows = rows.set_column(place, field.name, plain.dictionary_encode())
    return rows.unify_dictionaries()


def _pruned(chunk: pa.DictionaryArray, *, in_order: bool) -> pa.DictionaryArray:
    count = len(chunk.dictionary)
    indices = chunk.indices.fill_null(count) if chunk.null_count else chunk.indices
    places = indices.to_numpy(zero_copy_only=False)
    has = np.zeros(count + 1, np.bool_)
    has[places] = True
    used = np.flatnonzero(has[:count])
    if in_order and len(used) > 1:
        used = used[pc.sort_indices(chunk.dictionary.take(pa.array(used))).to_numpy()]
    if len(used) == count and (used == np.arange(count)).all():
        return chunk
    new = np.zeros(count + 1, np.int32)
    new[used] = np.arange(len(used))
    codes = pa.array(new[places], chunk.indices.type, mask=(places == count) if chunk.null_count else None)
    return pa.DictionaryArray.from_arrays(codes, chunk.dictionary.take(pa.array(used)))
