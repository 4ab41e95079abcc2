"""Rejects rows that lack a column which every row of their dataset needs: key, day or patient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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

    A row without its key, its patient, or the time that the table is partitioned by rejects its whole message.

    Args:
        rows: the dataset's columns by name; absent ones are null.
        message: int32 per row.
        dataset: the dataset of the rows.
    """
    missing: dict[int, str] = {}
    for name in needed(dataset):
        bad = (
            rows[name].is_null().to_numpy(zero_copy_only=False)
            if name in rows.schema.names
            else np.ones(len(message), np.bool_)
        )
        for i in message[bad].tolist():
            missing.setdefault(i, name)
    if not missing:
        return rows, message, []
    counts = np.bincount(message)
    rejects = [
        Reject(i, Reason.NO_KEY, f"{dataset.name}.{name}", int(counts[i])) for i, name in sorted(missing.items())
    ]
    good = ~np.isin(message, np.fromiter(missing, np.int32, len(missing)))
    return rows.filter(pa.array(good)), message[good], rejects
