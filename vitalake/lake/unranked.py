"""What is published of a dataset's times and versions: without what ranks the rows of two records."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.dataset import ALWAYS, MARKED, Column, Dataset
from vitalake.lake.own_times import OwnTimes, end_of_day, found_by_us
from vitalake.lake.record_noise import Names
from vitalake.lake.record_versions import RecordVersions


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
        made = self._versions(given, names, of=of)
        known = next((c.name for c in dataset.columns if c.ours == MARKED and c.name in rows.schema.names), None)
        if known is None or not (ours := found_by_us(given, rows.column(known))).any():
            return made
        at = np.flatnonzero(ours)
        mine = given.take(pa.array(at)).cast(pa.timestamp("us", "UTC"))
        ends = self._times(mine, lambda: [name.take(pa.array(at)) for name in names()], of=of)
        return pc.replace_with_mask(made, pa.array(ours), ends.cast(pa.int64()))
