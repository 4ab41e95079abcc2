"""Retention: deletes whole days that are older than a dataset is kept, except rows of patients on legal hold."""

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
        table: the table's name.
        before: ISO date; older days were deleted.
        days: days that had rows to delete.
        rows: rows that were deleted.
        held: rows of those days that stay because of a legal hold.
    """

    table: str
    before: str
    days: int = 0
    rows: int = 0
    held: int = 0


def first_kept_day(days: int) -> str:
    """Return the ISO date of the first day that is kept; ``days`` is how long rows are kept."""
    return str(clock.now().date() - timedelta(days=days))


def expire(
    table: Table, before: str, *, held: Collection[Value] = (), progress: Callable[[str], None] | None = None
) -> Expired:
    """Delete the rows of all days before one, with one commit a day. Repeating it changes nothing.

    Raise the fence first: a republish under way then notices that its counts are outdated, and starts again.

    Args:
        table: partitioned by day; nothing else may use the object during the call.
        before: ISO date; older days are deleted. Rows without a date stay.
        held: patients on legal hold, as the table names them; their rows stay.
        progress: called with each day before it is deleted.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    done = Expired(table.name, before)
    column = patient_column(table.dataset)
    only_held: set[str] = set()  # files in which every row is of a patient on hold

    def transform(rows: Rows) -> Iterable[Piece]:
        if not (held and column):
            return ()  # whole files are deleted, so none is read
        return remaining_rows(rows, lambda batch: batch.filter(has_value(batch[column].combine_chunks(), held)))

    def plan_of(day: str) -> Callable[[Snapshot], Sequence[StagedFile]]:
        def plan(snapshot: Snapshot) -> Sequence[StagedFile]:
            files = [file for file in snapshot.files.values() if file.day == day and file.path not in only_held]
            return [
                file for file in files if not (held and column) or _has_others(table, file, column, held, only_held)
            ]

        return plan

    table.refresh()
    for day in sorted({file.day for file in table.snapshot().files.values() if file.day and file.day < before}):
        if progress:
            progress(f"{table.name} {day}")
        result = rewrite(table, plan_of(day), transform, data_change=True)
        failpoint("expired-day")
        if result:
            done.days += 1
            done.rows += result.rows_before - result.rows
    table.refresh()
    done.held = sum(file.rows for file in table.snapshot().files.values() if file.day and file.day < before)
    return done


def _has_others(table: Table, file: StagedFile, column: str, held: Collection[Value], only_held: set[str]) -> bool:
    """Return whether a file has rows of a patient who is not on hold; add the file to ``only_held`` if not."""
    for batch in read_file(table, file, columns=[column]):
        if has_value(batch[column].combine_chunks(), held).true_count < batch.num_rows:
            return True
    only_held.add(file.path)
    return False
