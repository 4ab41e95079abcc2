"""Retention: whole days that are older than a dataset is kept for go, but for the rows of patients on legal hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from vitalake import clock
from vitalake.failpoints import failpoint
from vitalake.lake.maintenance.deletion import Value, has_value, remaining_rows
from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite
from vitalake.lake.tables.buckets import patient_column
from vitalake.lake.tables.staging import Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table


@dataclass(slots=True)
class Expired:
    """What a retention did to a table.

    Attributes:
        table: which.
        before: ISO date; older days went.
        days: that had rows to go.
        rows: that went.
        held: rows of those days that stay for a legal hold.
    """

    table: str
    before: str
    days: int = 0
    rows: int = 0
    held: int = 0


def first_kept_day(days: int) -> str:
    """Return the ISO date before which nothing is kept."""
    return str(clock.now().date() - timedelta(days=days))


def expire(
    table: Table, before: str, *, held: Collection[Value] = (), progress: Callable[[str], None] | None = None
) -> Expired:
    """Drop the rows of days before one; a commit a day. Repeating it changes nothing.

    The fence is to be raised first, for a swap under way has to count anew.

    Args:
        table: partitioned by day; not to be used by anything else meanwhile.
        before: ISO date; rows without a date stay.
        held: patients, as the table names them, whose rows stay.
        progress: told each day before it goes.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    done = Expired(table.name, before)
    column = patient_column(table.dataset)
    kept: set[str] = set()  # files that hold rows of the held and no others

    def transform(rows: Rows) -> Iterable[Piece]:
        if not (held and column):
            return ()  # whole files go: none is read
        return remaining_rows(rows, lambda batch: batch.filter(has_value(batch[column].combine_chunks(), held)))

    def of(day: str) -> Callable[[Snapshot], Sequence[StagedFile]]:
        def plan(snapshot: Snapshot) -> Sequence[StagedFile]:
            files = [file for file in snapshot.files.values() if file.day == day and file.path not in kept]
            return [file for file in files if not (held and column) or _has_others(table, file, column, held, kept)]

        return plan

    table.refresh()
    for day in sorted({file.day for file in table.snapshot().files.values() if file.day and file.day < before}):
        if progress:
            progress(f"{table.name} {day}")
        result = rewrite(table, of(day), transform, data_change=True)
        failpoint("expired-day")
        if result:
            done.days += 1
            done.rows += result.rows_before - result.rows
    table.refresh()
    done.held = sum(file.rows for file in table.snapshot().files.values() if file.day and file.day < before)
    return done


def _has_others(table: Table, file: StagedFile, column: str, held: Collection[Value], kept: set[str]) -> bool:
    """Whether a file has rows of anybody who is not held; one that has none is remembered."""
    for batch in read_file(table, file, columns=[column]):
        if has_value(batch[column].combine_chunks(), held).true_count < batch.num_rows:
            return True
    kept.add(file.path)
    return False
