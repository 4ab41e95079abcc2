"""What is published of a dataset's times and versions: without what ranks the rows of two records."""

from __future__ import annotations

import pyarrow as pa

from vitalake.lake.datasets.dataset import ALWAYS, Column, Dataset
from vitalake.lake.unlinkable.own_times import OwnTimes, end_of_day
from vitalake.lake.unlinkable.record_noise import Names
from vitalake.lake.unlinkable.record_versions import RecordVersions


def record_key(dataset: Dataset) -> tuple[str, ...]:
    """Return the columns that name a record: the key without what tells its versions apart."""
    return tuple(name for name in dataset.key if not dataset.column(name).counts)


def ranks(column: Column) -> bool:
    """Return whether a column of rows as they came may rank them."""
    return column.ours is not None or column.counts


class Unranked:
    """Makes what is published of such columns, with one secret; used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._times, self._versions = OwnTimes(secret), RecordVersions(secret)

    def __call__(self, column: Column, rows: pa.RecordBatch, names: Names, dataset: Dataset) -> pa.Array:
        """Return a column that may rank rows, as it may be published.

        Args:
            column: of the dataset; one that ranks.
            rows: as they came; what names the records among them.
            names: gives the columns of ``record_key``, as they are published.
            dataset: of the rows.
        """
        given, of = rows.column(column.name), f"{dataset.name}.{column.name}"
        if column.ours == ALWAYS:
            return end_of_day(given)
        if not column.counts:
            return self._times(given, names, of=of)
        return self._versions.pairs(given, names, of=of) if column.pairs else self._versions(given, names, of=of)
