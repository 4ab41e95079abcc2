"""Writes owners into rows: the columns that attribution changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.attribution.timeline import Owner

ATTRIBUTION, TOLD_AT = "attribution", "told_at"

WITHDRAWN = "entered-in-error"
"""Status of a row that withdraws a value from a patient."""

_EMPTIED = ("value", "comparator", "unit", "value_code", "value_text", "data_absent_reason")
_MOMENT = pa.timestamp("us", "UTC")


def with_owners(
    rows: pa.RecordBatch,
    owners: Sequence[Owner],
    owner: npt.NDArray[np.int64],
    *,
    available_us: npt.NDArray[np.int64],
    told_us: npt.NDArray[np.int64],
    attribution: npt.NDArray[np.int64],
    withdrawn: npt.NDArray[np.bool_],
) -> pa.RecordBatch:
    """Return the rows with their owners as patients; rows that name their patient themselves are not changed.

    Args:
        rows: identified.
        owners: of the rows.
        owner: index into ``owners`` of each row; negative: the row names its patient.
        available_us: when each row became known with this owner.
        told_us: when the value itself became known.
        attribution: see the dataset.
        withdrawn: rows that withdraw a value; their values are emptied.
    """
    attributed = owner >= 0
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns["patient_id"] = _replaced(columns["patient_id"], [o.patient for o in owners], owner)
    columns["encounter_id"] = _replaced(columns["encounter_id"], [o.encounter for o in owners], owner)
    columns["available_at"] = pa.array(available_us).cast(_MOMENT)
    columns[TOLD_AT] = pa.array(told_us, mask=~attributed).cast(_MOMENT)
    columns[ATTRIBUTION] = pa.array(attribution, mask=~attributed)
    if withdrawn.any():
        columns["status"] = _replaced(columns["status"], [WITHDRAWN], np.where(withdrawn, 0, -1))
        for name in _EMPTIED:
            columns[name] = _replaced(columns[name], [None], np.where(withdrawn, 0, -1))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _replaced(column: pa.Array, values: Sequence[str | None], which: npt.NDArray[np.int64]) -> pa.Array:
    """Return the column with each row's value replaced by that of an index; a negative index keeps the row's own."""
    if (which < 0).all():
        return column
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    behind = len(encoded.dictionary)
    own = encoded.indices.fill_null(-1) if encoded.null_count else encoded.indices
    index = np.where(which >= 0, which + behind, own.to_numpy(zero_copy_only=False).astype(np.int64))
    dictionary = pa.concat_arrays([encoded.dictionary.cast(kind), pa.array(values, kind)])
    absent = np.append(dictionary.is_null().to_numpy(zero_copy_only=False), True)[index]  # -1 is the last one
    replaced = pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32), mask=absent), dictionary)
    return replaced if pa.types.is_dictionary(column.type) else replaced.cast(kind)
