"""Compaction: the many small files of a live lane become few, sorted by patient time, without readers noticing.

Files of a bucket are merged with their like only. Of a dataset that wants buckets, a closed day's other files go into
them as soon as they have enough rows; until then they are merged as those of an open day are.
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
"""Rows of a compacted file. They are sorted in memory: about 500 MB of observations, measured."""

TARGET_BYTES = 128 << 20
"""… or so many bytes, for tables of few and heavy rows such as the dead letters."""

MIN_FILES = 8
"""Fewer small files than this in a day are left for later: each rewrite costs a commit."""

SORT_COLUMNS = ("code",)
"""After the time; what readers ask for together then lies together."""

MEMORY_ROWS = 4_000_000
"""Rows of a day that are put into buckets at a time, about 1 GB of observations; a longer day is read several times."""

ROWS_A_BUCKET = 2_000
"""A closed day's rows go into buckets when so many would be in each: files of a few rows help nobody."""


@dataclass(slots=True)
class Compaction:
    """What a compaction did; ``damaged`` counts rewrites that a damaged file stopped."""

    table: str
    days: int = 0
    rows: int = 0
    files_before: int = 0
    files_after: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One rewrite of a day: which files of a snapshot, and what is made of them."""

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
    """Merge the small files of each day into few; safe beside appends, readers and other compactions.

    Args:
        table: any of the lake's tables; not to be used by anything else meanwhile.
        target_rows: rows of a full file; memory is bounded by it.
        target_bytes: bytes of a full file; whichever comes first.
        min_files: days with fewer small files are good as they are.
        closed_before: ISO date; only days before it are touched. None takes all.
        buckets_before: ISO date; days before it are put into buckets where the dataset wants them. None: no day.
        progress: told each day before it is rewritten.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    size = _Size(target_rows, target_bytes, min_files)
    wanted = table.dataset.buckets if patient_column(table.dataset) else None

    def steps(day: str | None) -> Iterator[Step]:
        if wanted and buckets_before and day and day < buckets_before:
            yield _scatter_step(table, day, wanted, size, explicit=False)
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
    """Sort the rows of closed days by patient and time into files of one bucket each; a commit a day.

    A day that is in such buckets already, one file each, is left as it is: what was killed is started again.

    Args:
        table: of a dataset that names patients.
        count: of the buckets.
        closed_before: ISO date; only days before it are touched.
        target_rows: rows of a full file; a bucket that has more gets several.
        target_bytes: bytes of one.
        progress: told each day before it is rewritten.
        counted: told how many rows were made.

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
            except Damaged as error:  # the other days go on; this one when it is repaired
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


# -- what a day should look like ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Size:
    """When a file is full, and how many small ones are worth a rewrite."""

    rows: int
    bytes: int
    min_files: int

    def small(self, file: StagedFile) -> bool:
        """Whether a file has less than half of both: so every rewrite at least halves their number."""
        return file.rows * 2 < self.rows and file.size * 2 < self.bytes

    def of(self, files: Sequence[StagedFile]) -> int:
        """Return how many rows a full file of such rows has."""
        rows, size = sum(file.rows for file in files), sum(file.size for file in files)
        return max(1, min(self.rows, self.bytes * rows // max(size, 1)))


def _files(snapshot: Snapshot, day: str | None) -> list[StagedFile]:
    return sorted((file for file in snapshot.files.values() if file.day == day), key=lambda file: file.path)


def sort_keys(dataset: Dataset, *, by_patient: bool = False) -> list[str]:
    """Return the columns that rows of a file are sorted by."""
    patient = patient_column(dataset) if by_patient else None
    keys = [patient, dataset.day_of, *(name for name in SORT_COLUMNS if name in dataset.schema.names)]
    return [name for name in keys if name]


def _merge_step(table: Table, day: str | None, bucket: Bucket | None, size: _Size) -> Step:
    """Return what makes full, sorted files of the small ones of a day and bucket, if there are enough of them."""
    keys = sort_keys(table.dataset, by_patient=bucket is not None)

    def plan(snapshot: Snapshot) -> Sequence[StagedFile]:
        small = [file for file in _files(snapshot, day) if bucket_of(file.path) == bucket and size.small(file)]
        return small if len(small) >= size.min_files else []

    def transform(rows: Rows) -> Iterator[Piece]:
        # A bucket's rows come from files that are sorted each; cut before they are sorted together, one patient could
        # be in several files, of one bucket still.
        return (Piece(sort_by(part, keys), bucket) for part in _parts(rows, size.of(rows.files)))

    return Step(plan, transform)


def _scatter_step(table: Table, day: str, count: int, size: _Size, *, explicit: bool) -> Step:
    """Return what puts a day's rows into buckets: those of files without; if it is asked for, all there are."""

    def plan(snapshot: Snapshot) -> Sequence[StagedFile]:
        files = _files(snapshot, day)
        loose = [file for file in files if bucket_of(file.path) is None]
        if not explicit:
            return loose if sum(file.rows for file in loose) >= count * ROWS_A_BUCKET else []
        of: dict[Bucket | None, list[StagedFile]] = {}
        for file in files:
            bucket = bucket_of(file.path)
            of.setdefault(bucket if bucket and bucket[1] == count else None, []).append(file)
        chosen = of.pop(None, [])
        for same in of.values():
            small = [file for file in same if size.small(file)]
            chosen += small if len(small) > 1 or chosen else []
        return sorted(chosen, key=lambda file: file.path)

    def transform(rows: Rows) -> Iterator[Piece]:
        yield from _scattered(rows, count, size.of(rows.files), sort_keys(table.dataset, by_patient=True))

    return Step(plan, transform)


# -- putting rows in order ---------------------------------------------------------------------------------------


def _scattered(rows: Rows, count: int, full: int, keys: list[str]) -> Iterator[Piece]:
    """Yield the rows of one bucket after the other, sorted; the files are read as often as memory demands."""
    passes = min(count, -(-rows.count // MEMORY_ROWS))
    for number in range(passes):
        first, end = number * count // passes, (number + 1) * count // passes
        held = list(_within(rows, keys[0], count, first, end)) if passes > 1 else list(rows)
        if not held:
            continue
        part = joined(held)
        held.clear()
        buckets = buckets_of_values(part[keys[0]], count)
        order = order_by(part, keys, first=buckets)
        numbers, columns, names = buckets[order], part.columns, part.schema.names
        del part  # its memory is given back column by column
        ordered = taken(columns, names, order)
        for bucket, begin, end in bounds_of(numbers, count):
            for at in range(begin, end, full):
                yield Piece(ordered.slice(at, min(full, end - at)), bucket)
        del ordered


def _within(batches: Iterable[pa.Table], column: str, count: int, first: int, end: int) -> Iterator[pa.Table]:
    """Yield the rows of some buckets."""
    for batch in batches:
        buckets = buckets_of_values(batch[column], count)
        yield batch.filter(pa.array((buckets >= first) & (buckets < end)))


def _parts(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield tables of so many rows each; the last one has the rest."""
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = joined(held)
            yield table.slice(0, rows)
            held, count = [table.slice(rows)], count - rows
    if count:
        yield joined(held)
