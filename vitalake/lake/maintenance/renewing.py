"""Rewrites the files that have rows which an upgrade changes; the other files stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite
from vitalake.lake.maintenance.vacuum import delete_replaced
from vitalake.lake.tables.buckets import bucket_of
from vitalake.lake.tables.sorting import joined
from vitalake.lake.tables.staging import Counted, Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

Change = Callable[[pa.Table], pa.Table]
"""Rows → as many rows in the same order; the very same table object if nothing changes."""


def renew(table: Table, change: Change, *, counted: Counted | None = None) -> int:
    """Rewrite each file that has rows to be changed, and delete the replaced files; return how many rows were written.

    Safe while others append or read. Safe to repeat if ``change`` leaves rows that are changed already as they are.

    Args:
        table: nothing else may use the object during the call.
        change: makes the new rows.
        counted: called with the number of rows made since its last call.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; files that are done stay done.
    """
    rows, unchanged = 0, set[str]()

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        for path, file in sorted(snapshot.files.items()):
            if path in unchanged:
                continue
            if any(change(batch) is not batch for batch in read_file(table, file)):
                return [file]
            unchanged.add(path)
        return []

    def transform(read: Rows) -> Iterator[Piece]:
        for file in read.files:
            yield Piece(joined([change(batch) for batch in read_file(table, file)]), bucket_of(file.path))

    while done := rewrite(table, plan, transform, data_change=True, counted=counted):
        rows += done.rows
        unchanged.update(file.path for file in done.added)
    delete_replaced(table)
    return rows
