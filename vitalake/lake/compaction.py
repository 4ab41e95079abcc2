"""Compaction: the many small files of a live lane become few, sorted by patient time, without readers noticing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.rewrite import Transform, rewrite
from vitalake.lake.table import Snapshot, StagedFile, Table

TARGET_ROWS = 1_000_000
"""Rows of a compacted file. They are sorted in memory: about 500 MB of observations, measured."""

TARGET_BYTES = 128 << 20
"""… or so many bytes, for tables of few and heavy rows such as the dead letters."""

MIN_FILES = 8
"""Fewer small files than this in a day are left for later: each rewrite costs a commit."""

SORT_COLUMNS = ("code",)
"""After the time; what readers ask for together then lies together."""


@dataclass(slots=True)
class Compaction:
    """What a compaction did."""

    table: str
    days: int = 0
    rows: int = 0
    files_before: int = 0
    files_after: int = 0


def compact(
    table: Table,
    *,
    target_rows: int = TARGET_ROWS,
    target_bytes: int = TARGET_BYTES,
    min_files: int = MIN_FILES,
    closed_before: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Compaction:
    """Merge the small files of each day into few; safe beside appends, readers and other compactions.

    Args:
        table: any of the lake's tables; not to be used by anything else meanwhile.
        target_rows: rows of a full file; memory is bounded by it.
        target_bytes: bytes of a full file; whichever comes first.
        min_files: days with fewer small files are good as they are.
        closed_before: ISO date; only days before it are touched. None takes all.
        progress: told each day before it is rewritten.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    table.refresh()
    files = table.snapshot().files.values()
    days = {file.day for file in files if closed_before is None or file.day is None or file.day < closed_before}
    done = Compaction(table.name)
    for day in sorted(days, key=str):
        goal = _Goal(day, target_rows, target_bytes, min_files)
        if not goal.plan(table.snapshot()):
            continue
        if progress:
            progress(day or table.name)
        result = rewrite(table, goal.plan, goal.transform(table))
        if result:
            done.days += 1
            done.rows += result.rows
            done.files_before += len(result.removed)
            done.files_after += len(result.added)
    return done


@dataclass(slots=True)
class _Goal:
    """What one day should look like."""

    day: str | None
    target_rows: int
    target_bytes: int
    min_files: int
    rows_per_file: int = 0

    def plan(self, snapshot: Snapshot) -> Sequence[StagedFile]:
        """Return the day's small files, if there are enough of them."""
        small = [
            file
            for file in snapshot.files.values()
            if file.day == self.day and file.rows * 2 < self.target_rows and file.size * 2 < self.target_bytes
        ]
        rows, size = sum(file.rows for file in small), sum(file.size for file in small)
        self.rows_per_file = max(1, min(self.target_rows, self.target_bytes * rows // max(size, 1)))
        # Each has less than half of a full file's rows and bytes, so that every rewrite at least halves their number.
        return sorted(small, key=lambda file: file.path) if len(small) >= self.min_files else []

    def transform(self, table: Table) -> Transform:
        """Return what makes full, sorted files of batches; the plan has told how many rows a full one has."""
        keys = [table.dataset.day_of] if table.dataset.day_of else []
        keys += [name for name in SORT_COLUMNS if name in table.dataset.schema.names]

        def merge(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
            return (_sorted(part, keys) for part in _parts(batches, self.rows_per_file))

        return merge


def _parts(batches: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield tables of so many rows each; the last one has the rest."""
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.concat_tables(held)
            yield table.slice(0, rows)
            held, count = [table.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held)


def _sorted(part: pa.Table, keys: list[str]) -> pa.Table:
    part = part.unify_dictionaries()
    if not keys:
        return part
    columns = {
        name: pc.cast(part[name], pa.string()) if pa.types.is_dictionary(part[name].type) else part[name]
        for name in keys
    }
    return part.take(pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in keys]))
