"""Rows of datasets in which nothing is measured: what they must have to be somebody's, and to be found again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Reject
from vitalake.lake.datasets.dataset import Dataset


def needed(dataset: Dataset) -> tuple[str, ...]:
    """Return the columns without which a row of a dataset is rejected: key, day, and patient."""
    patient = [c.name for c in dataset.columns if c.data_class == "patient-identifier" and dataset.restricted]
    return tuple(dict.fromkeys((*dataset.key, *([dataset.day_of] if dataset.day_of else []), *patient)))


def with_key(
    rows: pa.RecordBatch, message: npt.NDArray[np.int32], dataset: Dataset
) -> tuple[pa.RecordBatch, npt.NDArray[np.int32], list[Reject]]:
    """Return the rows of whole messages, the message of each, and the rejects.

    A row without its key, the time by which the table is partitioned, or its patient, rejects its message.

    Args:
        rows: the dataset's columns by name; absent ones are null.
        message: int32 per row.
        dataset: where they go.
    """
    where: dict[int, str] = {}
    for name in needed(dataset):
        bad = (
            rows[name].is_null().to_numpy(zero_copy_only=False)
            if name in rows.schema.names
            else np.ones(len(message), np.bool_)
        )
        for i in message[bad].tolist():
            where.setdefault(i, name)
    if not where:
        return rows, message, []
    counts = np.bincount(message)
    rejects = [Reject(i, Reason.NO_KEY, f"{dataset.name}.{name}", int(counts[i])) for i, name in sorted(where.items())]
    good = ~np.isin(message, np.fromiter(where, np.int32, len(where)))
    return rows.filter(pa.array(good)), message[good], rejects
