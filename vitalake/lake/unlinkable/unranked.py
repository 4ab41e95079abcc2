"""Publishes times and versions without the order of rows of different records."""

from __future__ import annotations

import pyarrow as pa

from vitalake.lake.datasets.dataset import ALWAYS, Column, Dataset
from vitalake.lake.unlinkable.own_times import OwnTimes, end_of_day
from vitalake.lake.unlinkable.record_noise import Names
from vitalake.lake.unlinkable.record_versions import RecordVersions


def record_key(dataset: Dataset) -> tuple[str, ...]:
    """Return the columns that name a record: the key without the version."""
    return tuple(name for name in dataset.key if not dataset.column(name).counts)


def ranks(column: Column) -> bool:
    """Return whether a column could show the order in which rows came."""
    return column.ours is not None or column.counts


class Unranked:
    """Makes the published form of such columns, with one secret; to be used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._times, self._versions = OwnTimes(secret), RecordVersions(secret)

    def __call__(self, column: Column, rows: pa.RecordBatch, names: Names, dataset: Dataset) -> pa.Array:
        """Return the published form of a column that could show the order of rows.

        Args:
            column: a column of the dataset for which ``ranks`` is true.
            rows: rows as they came, with the columns that name their records.
            names: gives the columns of ``record_key``, as they are published.
            dataset: the dataset of the rows.
        """
        given, of = rows.column(column.name), f"{dataset.name}.{column.name}"
        if column.ours == ALWAYS:
            return end_of_day(given)
        if not column.counts:
            return self._times(given, names, of=of)
        return self._versions.pairs(given, names, of=of) if column.pairs else self._versions(given, names, of=of)
