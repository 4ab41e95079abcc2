"""Gives versions to rows, so that the row of a record that was loaded last is shown.

The lake shows the row of the highest version. A source that counts versions is taken at its word. Others get a version
when they replace what was loaded before: the time of the load. Few numbers that a source counts reach a time; so of a
record that has such a version, what a source counts gets the time of the load as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.history.change_detection import CHANGED, NEW, SKIPPED, Plan, highest_of
from pipelines.history.digests import UNKNOWN_VERSION, UNVERSIONED, Entries
from pipelines.history.known_rows import Before
from pipelines.history.rows import typed
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.unlinkable.own_times import is_ours, known_at, marked
from vitalake.lake.unlinkable.record_versions import MOST

MILLISECOND_US, CENTURY_US = 1_000, 100 * 366 * 86_400_000_000

STEP_US = 2_000
"""Between two versions that a load gives: of large numbers, about a thousand are published as one."""

NONE_GIVEN = 1
"""The greatest version by time if none was given."""


@dataclass(frozen=True, slots=True)
class GivenVersions:
    """The versions that a load gives.

    Attributes:
        now_us: since when the rows are known that get one and whose query counts no versions.
        of: of each message of the query, the version that it gets; 0: it has what the query gives, or 0.
    """

    now_us: int
    of: npt.NDArray[np.int64]

    def put(
        self, rows: pa.Table, starts: npt.NDArray[np.int64], dataset: Dataset, given: npt.NDArray[np.int64]
    ) -> pa.Table:
        """Return rows with their versions, and with the times since when they are known.

        The time of the load is one of our own clock, and is marked as such. Queries as of an earlier time show the
        version before; if the source counts versions, it also says when each could be known.

        Args:
            rows: of some messages of the query.
            starts: where each message begins.
            dataset: of the rows.
            given: the version that each of these messages gets.
        """
        sizes = np.diff(np.r_[starts, rows.num_rows])
        of_rows = np.repeat(given, sizes)
        counted = "version" in rows.schema.names
        # In every batch, and of one type: all batches are judged as one table.
        if not counted:
            rows = rows.append_column("version", pa.array(of_rows))
        else:
            versions = typed(rows.select(["version"]), dataset)["version"].combine_chunks()
            numbers = versions.fill_null(UNKNOWN_VERSION).to_numpy(zero_copy_only=False)
            # A message can have several versions of its record; it is the highest that takes the place of others.
            highest = np.repeat(np.maximum.reduceat(numbers, starts), sizes)
            versions = pc.if_else(pa.array((of_rows > 0) & (numbers == highest)), pa.array(of_rows), versions)
            rows = rows.set_column(rows.schema.get_field_index("version"), "version", versions)
        replacing = (of_rows > 0) & (not counted)
        # issued_at is a time of a query's observations; in another dataset a column of this name is one like any other.
        for name in ("issued_at", "available_at") if dataset.measures else ("available_at",):
            if name in rows.schema.names:
                times = typed(rows.select([name]), dataset)[name].combine_chunks()
                column = known_at(times, replacing, self.now_us if name == "available_at" else None)
                rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        return rows


def given_versions(found: Entries, to_load: Plan, before: Before, *, first_us: int) -> npt.NDArray[np.int64]:
    """Return the version that the load gives to each message; 0: none.

    A message without a version gets one if it replaces another, or if its record was loaded before otherwise. One with
    a version gets one if its record ever got one of a load or was loaded without, by whichever source, unless this
    source has loaded a higher one. Several of a record get them in their order: the highest can be rejected.

    Args:
        found: the entries of all messages of the query.
        to_load: what is to be done with each.
        before: what was loaded before of their records.
        first_us: the first version to give, a whole millisecond; others follow by STEP_US.
    """
    unversioned = found["version"] == UNVERSIONED
    replaces = (to_load.fate == CHANGED) | ((to_load.fate == NEW) & before.loaded)
    counted = found["version"] > UNKNOWN_VERSION
    of_counted = (to_load.fate != SKIPPED) & counted & before.given & (found["version"] >= before.highest)
    at = np.flatnonzero((unversioned & replaces) | of_counted)
    given = np.zeros(len(found), np.int64)
    if len(at):
        order = at[np.lexsort((found["version"][at], found["record"][at]))]
        same_record = found["record"][order][1:] == found["record"][order][:-1]
        higher = same_record & (found["version"][order][1:] > found["version"][order][:-1])
        steps = np.r_[0, np.cumsum(higher)]
        begins = np.maximum.accumulate(np.where(np.r_[True, ~same_record], np.arange(len(order)), 0))
        # What a source counts can be greater than a time in microseconds.
        above = np.maximum(before.highest_of_all[order], highest_of(found, found["record"][order]))
        first = np.maximum(first_us, np.minimum(above, MOST) + STEP_US)
        given[order] = first // MILLISECOND_US * MILLISECOND_US + marked(0) + (steps - steps[begins]) * STEP_US
    return given


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
