"""Rejects rows that lack a column which every row of their dataset needs, or have a number that is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Reject
from vitalake.lake.datasets.dataset import Dataset


def needed(dataset: Dataset) -> tuple[str, ...]:
    """Return the columns that every row of a dataset must have: its key, its day, and its patient."""
    patient = [c.name for c in dataset.columns if c.data_class == "patient-identifier" and dataset.restricted]
    return tuple(dict.fromkeys((*dataset.key, *([dataset.day_of] if dataset.day_of else []), *patient)))


def with_key(
    rows: pa.RecordBatch, message: npt.NDArray[np.int32], dataset: Dataset
) -> tuple[pa.RecordBatch, npt.NDArray[np.int32], list[Reject]]:
    """Return the rows of complete messages, the message of each row, and the rejects.

    A row without its key, its patient, or the time that the table is partitioned by rejects its whole message. So does
    an infinite number, or one that is not a number: no observation may have one, either.

    Args:
        rows: the dataset's columns by name; absent ones are null.
        message: int32 per row.
        dataset: the dataset of the rows.
    """
    bad_of: dict[int, tuple[Reason, str]] = {}
    for name in needed(dataset):
        bad = absent(rows[name]) if name in rows.schema.names else np.ones(len(message), np.bool_)
        for i in message[bad].tolist():
            bad_of.setdefault(i, (Reason.NO_KEY, name))
    for column in dataset.columns:
        if pa.types.is_floating(column.type) and column.name in rows.schema.names:
            for i in message[~finite(rows[column.name])].tolist():
                bad_of.setdefault(i, (Reason.IMPLAUSIBLE_VALUE, column.name))
    if not bad_of:
        return rows, message, []
    counts = np.bincount(message)
    rejects = [
        Reject(i, reason, f"{dataset.name}.{name}", int(counts[i])) for i, (reason, name) in sorted(bad_of.items())
    ]
    good = ~np.isin(message, np.fromiter(bad_of, np.int32, len(bad_of)))
    return rows.filter(pa.array(good)), message[good], rejects


def absent(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which values are null, or a text without a character: an empty number would be the same for everybody."""
    found: npt.NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind):
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        blank = [i for i, text in enumerate(encoded.dictionary.to_pylist()) if text is not None and not text.strip()]
        if blank:
            found |= np.isin(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), blank)
    return found


def finite(numbers: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return which floating-point numbers are neither infinite nor "not a number"; an absent one is neither."""
    found: npt.NDArray[np.bool_] = np.isfinite(pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False))
    return found
