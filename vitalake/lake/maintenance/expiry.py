"""Deletes quarantined messages when they expire, whether they were replayed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from vitalake import clock
from vitalake.lake.maintenance.deletion import remaining_rows
from vitalake.lake.maintenance.rewrite import Rows, rewrite
from vitalake.lake.tables.staging import Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

COLUMN = "expires_at"


def expires(table: Table) -> bool:
    """Return whether the rows of a table have an expiry time of their own."""
    return COLUMN in table.dataset.schema.names


def expire(table: Table, *, progress: Callable[[str], None] | None = None) -> int:
    """Rewrite the days of a table that have expired rows, without these rows; return how many rows were deleted.

    The replaced files wait for the vacuum like others. The resolutions of the messages stay in ``resolution``.

    Args:
        table: one with the column ``expires_at``; nothing else may use the object during the call.
        progress: called with each day before it is rewritten.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    if not expires(table):
        return 0
    now = clock.now()
    verdicts: dict[str, bool] = {}

    def has_expired(file: StagedFile) -> bool:
        if file.path not in verdicts:
            column = table.storage.read_parquet(file.path, [COLUMN])[COLUMN]
            verdicts[file.path] = bool(pc.any(_has_expired(column, now)).as_py())
        return verdicts[file.path]

    def transform(rows: Rows) -> Iterator[Piece]:
        return remaining_rows(rows, lambda batch: batch.filter(pc.invert(_has_expired(batch[COLUMN], now))))

    table.refresh()
    # A message never expires on the day on which it was quarantined, so today's files need not be read.
    today = str(now.date())
    days = {file.day for file in table.snapshot().files.values() if file.day is None or file.day < today}
    count = 0
    for day in sorted(days, key=str):

        def plan(snapshot: Snapshot, day: str | None = day) -> Sequence[StagedFile]:
            chosen = [file for file in snapshot.files.values() if file.day == day and has_expired(file)]
            return sorted(chosen, key=lambda file: file.path)

        if not plan(table.snapshot()):
            continue
        if progress:
            progress(day or table.name)
        result = rewrite(table, plan, transform, data_change=True)
        count += result.rows_before - result.rows if result else 0
    return count


def _has_expired(column: pa.ChunkedArray, now: datetime) -> pa.ChunkedArray:
    return pc.fill_null(pc.less_equal(column, pa.scalar(now, pa.timestamp("us", "UTC"))), False)
