"""Makes sure that each published row has a value or a code, or else the reason why both are absent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.datasets.dataset import OneOf
from vitalake.lake.tables.dictionaries import as_type

AS_TEXT, MASKED, UNKNOWN = "as-text", "masked", "unknown"
"""Codes of FHIR's data-absent-reason: there was only text; the rules removed the value; there was nothing."""


def with_reason(
    masked: pa.RecordBatch, given: pa.RecordBatch, one_of: OneOf, *, published: bool
) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_] | None]:
    """Return masked rows that each have a value or a reason, and which of the given rows were kept (None: all).

    A row in which the masks leave none of the columns gets a reason. If the rules do not publish the reason either, the
    row is left out.

    Args:
        masked: rows as they may be published.
        given: the same rows, identified.
        one_of: the columns.
        published: whether the reason's column is published.
    """
    empty = _without_any(masked, one_of.columns)
    if empty is None:
        return masked, None
    if not published:
        return masked.filter(pa.array(~empty)), ~empty
    removed = ~_all_null(given, one_of.columns)
    words = ~_all_null(given, (one_of.words,))
    reasons = np.where(removed, MASKED, np.where(words, AS_TEXT, UNKNOWN))
    index = masked.schema.get_field_index(one_of.reason)
    field = masked.schema.field(index)
    given_reasons = masked.column(index).cast(pa.string())
    filled = pc.if_else(pa.array(empty), pa.array(reasons, pa.string()), given_reasons)
    return masked.set_column(index, field, as_type(filled, field.type)), None


def _without_any(rows: pa.RecordBatch, names: tuple[str, ...]) -> npt.NDArray[np.bool_] | None:
    """Return which rows have a value in none of the columns; None: every row has one."""
    if any(not rows[name].null_count for name in names):
        return None
    empty = _all_null(rows, names)
    return empty if empty.any() else None


def _all_null(rows: pa.RecordBatch, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    empty = np.ones(rows.num_rows, np.bool_)
    for name in names:
        if name in rows.schema.names:
            empty &= rows[name].is_null().to_numpy(zero_copy_only=False)
    return empty
