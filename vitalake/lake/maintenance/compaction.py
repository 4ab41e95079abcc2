"""Compaction: merges the many small files of a live lane into few sorted ones; readers notice nothing.

Files of a bucket are merged only with files of the same bucket. If a dataset declares buckets, a closed day's other
files are sorted into buckets as soon as they have enough rows; until then they are merged like those of an open day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from vitalake.errors import InputError
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.maintenance.rewrite import Rows, rewrite
from vitalake.lake.tables.buckets import MOST_BUCKETS, Bucket, bounds_of, bucket_of, buckets_of_values, patient_column
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.sorting import joined, order_by, sort_by, taken
from vitalake.lake.tables.staging import Counted, Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

_log = logging.getLogger(__name__)

TARGET_ROWS = 1_000_000
"""Rows of a compacted file. They are sorted in memory: about 500 MB for observations, measured."""

TARGET_BYTES = 128 << 20
"""Bytes of a compacted file, for tables with few and large rows such as the dead letters."""

MIN_FILES = 8
"""A day with fewer small files is left for later: each rewrite costs a commit."""

SORT_COLUMNS = ("code",)
"""Sort columns after the time: rows that are often read together then lie together."""

MEMORY_ROWS = 4_000_000
"""Rows of a day that are sorted into buckets at a time, about 1 GB of observations; a larger day is read several
times."""

ROWS_A_BUCKET = 2_000
"""A closed day's rows are sorted into buckets once each bucket would have this many: smaller files are not worth it."""


@dataclass(slots=True)
class Compaction:
    """What a compaction did; ``damaged`` counts the rewrites that a damaged file stopped."""

    table: str
    days: int = 0
    rows: int = 0
    files_before: int = 0
    files_after: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One rewrite of a day: ``plan`` chooses its files, and ``transform`` makes the new rows."""

    plan: Callable[[Snapshot], Sequence[StagedFile]]
    transform: Callable[[Rows], Iterable[pa.Table | Piece]]


def compact(
    table: Table,
    *,
    target_rows: int = TARGET_ROWS,
    target_bytes: int = TARGET_BYTES,
    min_files: int = MIN_FILES,
    closed_before: str | None = None,
    buckets_before: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Compaction:
    """Merge the small files of each day into few; safe while others append, read or compact.

    Args:
        table: any of the lake's tables; nothing else may use the object during the call.
        target_rows: rows of a full file; it limits the memory.
        target_bytes: bytes of a full file; the limit that is reached first counts.
        min_files: days with fewer small files are left as they are.
        closed_before: ISO date; only days before it are rewritten. None: all days.
        buckets_before: ISO date; days before it are sorted into buckets if the dataset declares them. None: no day.
        progress: called with each day before it is rewritten.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    size = _Size(target_rows, target_bytes, min_files)
    count = table.dataset.buckets if patient_column(table.dataset) else None

    def steps(day: str | None) -> Iterator[Step]:
        if count and buckets_before and day and day < buckets_before:
            yield _scatter_step(table, day, count, size, explicit=False)
        for bucket in sorted({bucket_of(f.path) for f in _files(table.snapshot(), day)}, key=lambda b: b or (-1, 0)):
            yield _merge_step(table, day, bucket, size)

    return _go(table, steps, closed_before=closed_before, progress=progress)


def put_into_buckets(
    table: Table,
    count: int,
    *,
    closed_before: str,
    target_rows: int = TARGET_ROWS,
    target_bytes: int = TARGET_BYTES,
    progress: Callable[[str], None] | None = None,
    counted: Counted | None = None,
) -> Compaction:
    """Sort the rows of closed days by patient and time into files of one bucket each, with one commit a day.

    A day that already has one file for each of these buckets is left as it is: a killed run can be started again.

    Args:
        table: of a dataset that names patients.
        count: number of buckets.
        closed_before: ISO date; only days before it are rewritten.
        target_rows: rows of a full file; a bucket with more rows gets several files.
        target_bytes: bytes of a full file.
        progress: called with each day before it is rewritten.
        counted: called with the number of rows made since its last call.

    Raises:
        InputError: the table has no column of patients or of days, or there would be too many buckets.
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    if patient_column(table.dataset) is None or table.dataset.day_of is None or not 2 <= count <= MOST_BUCKETS:
        raise InputError(
            "Table cannot be put into so many buckets, or into any",
            where=table.name,
            remedy=f"Name a table with patients and days, and 2 to {MOST_BUCKETS} buckets.",
        )
    size = _Size(target_rows, target_bytes, 2)

    def steps(day: str | None) -> Iterator[Step]:
        if day is not None:
            yield _scatter_step(table, day, count, size, explicit=True)

    return _go(table, steps, closed_before=closed_before, progress=progress, counted=counted)


def _go(
    table: Table,
    steps: Callable[[str | None], Iterable[Step]],
    *,
    closed_before: str | None,
    progress: Callable[[str], None] | None,
    counted: Counted | None = None,
) -> Compaction:
    table.refresh()
    files = table.snapshot().files.values()
    days = {file.day for file in files if closed_before is None or file.day is None or file.day < closed_before}
    done = Compaction(table.name)
    for day in sorted(days, key=str):
        touched = False
        for step in steps(day):
            if not step.plan(table.snapshot()):
                continue
            if progress and not touched:
                progress(day or table.name)
            try:
                result = rewrite(table, step.plan, step.transform, counted=counted)
            except Damaged as error:  # go on with the other days; this one is merged once it is repaired
                _log.error("day is not merged", extra={"what": error.what, "where": error.where})
                done.damaged += 1
                continue
            if result:
                touched = True
                done.rows += result.rows
                done.files_before += len(result.removed)
                done.files_after += len(result.added)
        done.days += touched
    return done


# -- planning the files of a day ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Size:
    """The size of a full file, and how many small ones are worth a rewrite."""

    rows: int
    bytes: int
    min_files: int

    def small(self, file: StagedFile) -> bool:
        """Return whether a file has less than half of both limits; so every rewrite at least halves the number."""
        return file.rows * 2 < self.rows and file.size * 2 < self.bytes

    def of(self, files: Sequence[StagedFile]) -> int:
        """Return how many rows of these files make a full file."""
        rows, size = sum(file.rows for file in files), sum(file.size for file in files)
        return max(1, min(self.rows, self.bytes * rows // max(size, 1)))


def _files(snapshot: Snapshot, day: str | None) -> list[StagedFile]:
    return sorted((file for file in snapshot.files.values() if file.day == day), key=lambda file: file.path)


def sort_keys(dataset: Dataset, *, by_patient: bool = False) -> list[str]:
    """Return the columns by which the rows of a file are sorted."""
    patient = patient_column(dataset) if by_patient else None
    keys = [patient, dataset.day_of, *(name for name in SORT_COLUMNS if name in dataset.schema.names)]
    return [name for name in keys if name]


def _merge_step(table: Table, day: str | None, bucket: Bucket | None, size: _Size) -> Step:
    """Return the step that merges the small files of a day and bucket into full, sorted ones, if there are enough."""
    keys = sort_keys(table.dataset, by_patient=bucket is not None)

    def plan(snapshot: Snapshot) -> Sequence[StagedFile]:
        small = [file for file in _files(snapshot, day) if bucket_of(file.path) == bucket and size.small(file)]
        return small if len(small) >= size.min_files else []

    def transform(rows: Rows) -> Iterator[Piece]:
        # The rows are cut into parts before each part is sorted: one patient may then be in several files, but always
        # of the same bucket.
        return (Piece(sort_by(part, keys), bucket) for part in _parts(rows, size.of(rows.files)))

    return Step(plan, transform)


def _scatter_step(table: Table, day: str, count: int, size: _Size, *, explicit: bool) -> Step:
    """Return the step that sorts a day's rows into buckets: of files without a bucket, or with ``explicit`` of all."""

    def plan(snapshot: Snapshot) -> Sequence[StagedFile]:
        files = _files(snapshot, day)
        loose = [file for file in files if bucket_of(file.path) is None]
        if not explicit:
            return loose if sum(file.rows for file in loose) >= count * ROWS_A_BUCKET else []
        by_bucket: dict[Bucket | None, list[StagedFile]] = {}
        for file in files:
            bucket = bucket_of(file.path)
            by_bucket.setdefault(bucket if bucket and bucket[1] == count else None, []).append(file)
        chosen = by_bucket.pop(None, [])
        for same_bucket in by_bucket.values():
            small = [file for file in same_bucket if size.small(file)]
            chosen += small if len(small) > 1 or chosen else []
        return sorted(chosen, key=lambda file: file.path)

    def transform(rows: Rows) -> Iterator[Piece]:
        yield from _scattered(rows, count, size.of(rows.files), sort_keys(table.dataset, by_patient=True))

    return Step(plan, transform)


# -- sorting rows ------------------------------------------------------------------------------------------------


def _scattered(rows: Rows, count: int, full: int, keys: list[str]) -> Iterator[Piece]:
    """Yield the sorted rows of one bucket after the other; large days are read several times to save memory."""
    passes = min(count, -(-rows.count // MEMORY_ROWS))
    for number in range(passes):
        first, end = number * count // passes, (number + 1) * count // passes
        batches = list(_within(rows, keys[0], count, first, end)) if passes > 1 else list(rows)
        if not batches:
            continue
        part = joined(batches)
        batches.clear()
        buckets = buckets_of_values(part[keys[0]], count)
        order = order_by(part, keys, first=buckets)
        numbers, columns, names = buckets[order], part.columns, part.schema.names
        del part  # so that taken() can free its memory column by column
        ordered = taken(columns, names, order)
        for bucket, begin, end in bounds_of(numbers, count):
            for at in range(begin, end, full):
                yield Piece(ordered.slice(at, min(full, end - at)), bucket)
        del ordered


def _within(batches: Iterable[pa.Table], column: str, count: int, first: int, end: int) -> Iterator[pa.Table]:
    """Yield the rows of the buckets from ``first`` up to ``end``."""
    for batch in batches:
        buckets = buckets_of_values(batch[column], count)
        yield batch.filter(pa.array((buckets >= first) & (buckets < end)))


def _parts(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield tables of this many rows each; the last one has the rest."""
    collected: list[pa.Table] = []
    count = 0
    for batch in batches:
        collected.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = joined(collected)
            yield table.slice(0, rows)
            collected, count = [table.slice(rows)], count - rows
    if count:
        yield joined(collected)
