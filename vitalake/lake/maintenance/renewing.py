"""Rewriting the files of a table some of whose rows an upgrade changes; the others stay as they are."""

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
"""Rows → the same rows, as many and in their order; the very same table where nothing changes."""


def renew(table: Table, change: Change, *, counted: Counted | None = None) -> int:
    """Rewrite each file that has rows to be changed, and delete what it replaces; return how many rows were written.

    Safe beside appends and readers, and to repeat: changed rows must not be changed again.

    Args:
        table: not to be used by anything else meanwhile.
        change: what to do with rows.
        counted: told how many rows were made.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; files that are done stay done.
    """
    rows, known = 0, set[str]()

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        for path, file in sorted(snapshot.files.items()):
            if path in known:
                continue
            if any(change(batch) is not batch for batch in read_file(table, file)):
                return [file]
            known.add(path)
        return []

    def transform(read: Rows) -> Iterator[Piece]:
        for file in read.files:
            yield Piece(joined([change(batch) for batch in read_file(table, file)]), bucket_of(file.path))

    while done := rewrite(table, plan, transform, data_change=True, counted=counted):
        rows += done.rows
        known.update(file.path for file in done.added)
    delete_replaced(table)
    return rows
