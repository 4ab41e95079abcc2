"""Gives versions to rows, so that the row of a record that was loaded last is shown.

The lake shows the row of the highest version. A source that counts versions is taken at its word. Others get a version
when they replace what was loaded before: the time of the load. A record with such a version cannot be replaced by a
number that a source counts; so its highest one gets the time of the load as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.history.change_detection import CHANGED, NEW, SKIPPED, Plan, highest_of
from pipelines.history.digests import UNVERSIONED, Entries
from pipelines.history.known_rows import Before
from pipelines.history.rows import typed
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.unlinkable.own_times import is_ours, known_at, marked

MILLISECOND_US, CENTURY_US = 1_000, 100 * 366 * 86_400_000_000

NONE_GIVEN = 1
"""The greatest version by time if it is known that there is none."""


@dataclass(frozen=True, slots=True)
class GivenVersions:
    """The versions that a load gives.

    Attributes:
        now_us: since when the rows are known that get one and whose query counts no versions.
        version_us: the version.
        dated: of each message of the query, whether it gets it. Others have what the query gives, or version 0.
    """

    now_us: int
    version_us: int
    dated: npt.NDArray[np.bool_]

    def put(self, rows: pa.Table, dataset: Dataset, dated: npt.NDArray[np.bool_]) -> pa.Table:
        """Return rows with their versions, and with the times since when they are known.

        The time of the load is one of our own clock, and is marked as such. Queries as of an earlier time show the
        version before; if the source counts versions, it also says when each could be known.

        Args:
            rows: of some messages of the query.
            dataset: of the rows.
            dated: which of these rows get the version.
        """
        counted = "version" in rows.schema.names  # in every batch, because all batches are judged as one table
        if not counted:
            rows = rows.append_column("version", pa.array(np.where(dated, marked(self.version_us), 0)))
        elif dated.any():
            versions = typed(rows.select(["version"]), dataset)["version"]
            versions = pc.if_else(pa.array(dated), pa.scalar(marked(self.version_us)), versions)
            rows = rows.set_column(rows.schema.get_field_index("version"), "version", versions)
        replacing = dated & (not counted)
        # issued_at is a time of a query's observations; in another dataset a column of this name is one like any other.
        for name in ("issued_at", "available_at") if dataset.measures else ("available_at",):
            if name in rows.schema.names:
                given = typed(rows.select([name]), dataset)[name].combine_chunks()
                column = known_at(given, replacing, self.now_us if name == "available_at" else None)
                rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        return rows


def dated(found: Entries, to_load: Plan, before: Before) -> npt.NDArray[np.bool_]:
    """Return which messages get the time of the load as their version.

    Without a version: changed ones, and those of a record that was loaded before otherwise. With one: the highest
    version of a record that was loaded before without, by whichever source.
    """
    replaces = (to_load.fate == CHANGED) | ((to_load.fate == NEW) & before.loaded)
    unversioned = found["version"] == UNVERSIONED
    of_counted = (to_load.fate != SKIPPED) & before.unversioned & ~unversioned
    if of_counted.any():
        highest = np.maximum(before.highest, highest_of(found, found["record"]))
        of_counted &= found["version"] >= highest
    result: npt.NDArray[np.bool_] = (unversioned & replaces) | of_counted
    return result


def greatest_given(lake: Lake) -> int:
    """Return the greatest version by time in the lake, for digests that do not tell it: of an earlier release, or lost.

    It reads two columns of all rows. The first load that gives such a version writes it down.
    """
    if not lake.storage.holds_table(lake.restricted.name):
        return NONE_GIVEN
    greatest, latest = NONE_GIVEN, clock.now_us() + CENTURY_US  # a source's own version may be any number
    for day in {file.day for file in lake.restricted.snapshot().files.values()}:
        rows = lake.restricted.scan(days=None if day is None else [day], columns=["source", "version"])
        of_loads = pc.match_substring_regex(rows["source"].cast(pa.string()), rf"\.{lake.dataset.name}\[[01]\]$")
        versions = rows["version"].filter(pc.fill_null(of_loads, False)).fill_null(0).to_numpy()
        versions = versions[is_ours(versions) & (versions < latest)]
        greatest = max(greatest, int(versions.max(initial=0)))
    return greatest
