"""What a published row must say: a value, a code, or why there is neither."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.datasets.dataset import OneOf
from vitalake.lake.tables.dictionaries import as_type

AS_TEXT, MASKED, UNKNOWN = "as-text", "masked", "unknown"
"""FHIR's codes (data-absent-reason) for: only words were there; the rules took it away; nothing was there."""


def with_reason(
    masked: pa.RecordBatch, given: pa.RecordBatch, one_of: OneOf, *, published: bool
) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_] | None]:
    """Return masked rows that all say something, and which of the rows were kept (None: all).

    A row that the masks leave without any of the columns gets the reason why. Where the rules do not publish the
    reason either such a row is left out.

    Args:
        masked: rows as they may be published.
        given: the same rows, identified.
        one_of: the columns.
        published: whether the reason's column is published.
    """
    silent = _none_of(masked, one_of.columns)
    if silent is None:
        return masked, None
    if not published:
        return masked.filter(pa.array(~silent)), ~silent
    taken = ~_all_null(given, one_of.columns)
    words = ~_all_null(given, (one_of.words,))
    reasons = np.where(taken, MASKED, np.where(words, AS_TEXT, UNKNOWN))
    place = masked.schema.get_field_index(one_of.reason)
    field = masked.schema.field(place)
    told = masked.column(place).cast(pa.string())
    filled = pc.if_else(pa.array(silent), pa.array(reasons, pa.string()), told)
    return masked.set_column(place, field, as_type(filled, field.type)), None


def _none_of(rows: pa.RecordBatch, names: tuple[str, ...]) -> npt.NDArray[np.bool_] | None:
    """Return which rows have none of the columns; None: every row has one."""
    if any(not rows[name].null_count for name in names):
        return None
    silent = _all_null(rows, names)
    return silent if silent.any() else None


def _all_null(rows: pa.RecordBatch, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    silent = np.ones(rows.num_rows, np.bool_)
    for name in names:
        if name in rows.schema.names:
            silent &= rows[name].is_null().to_numpy(zero_copy_only=False)
    return silent
