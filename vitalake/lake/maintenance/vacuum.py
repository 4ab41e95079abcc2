"""Vacuum: deletes files that were replaced so long ago that nobody reads them any more."""

from __future__ import annotations

import re
from collections import defaultdict

from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.spans import is_added
from vitalake.lake.tables.table import Table

RETENTION_HOURS = 168
"""How long replaced files stay for readers that hold an older version; the log forgets them after as long."""

SPAN_FILE = re.compile(r"(?P<span_id>(?P<job>[a-z0-9-]+)\.(?P<shard>\w+)\.e(?P<epoch>\d+)\.[0-9a-f]{32})")
"""The names of files that spans have staged: see spans.py."""


def span_id_of(path: str) -> str:
    """Return the span that has staged a file; nothing for files of others."""
    match = SPAN_FILE.match(path.rpartition("/")[2])
    return match["span_id"] if match else ""


def kept_files(table: Table) -> set[str]:
    """Return the files of the newest snapshot, and those that were replaced and wait for the vacuum."""
    table.refresh()
    replaced = table.delta.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False)
    return set(table.snapshot().files) | set(replaced)


def vacuum(lake: Lake, table: Table, *, retention_hours: int = RETENTION_HOURS) -> int:
    """Delete a table's files that were replaced longer ago than the retention; return how many.

    What was never committed is the sweeper's. The log forgets after a week which files were replaced
    (delta.deletedFileRetentionDuration), deleted or not; so files of added spans, that are older than that and that
    neither the newest version nor the log knows, go too.

    Raises:
        DeltaError, OSError: storage cannot be reached.
    """
    table.refresh()
    gone = set(table.delta.vacuum(retention_hours, dry_run=False, enforce_retention_duration=False))
    oldest = clock.now().timestamp() - max(retention_hours, RETENTION_HOURS) * 3600
    old = {path for path, changed in table.storage.files().items() if changed < oldest}
    forgotten = defaultdict(list)
    for path in old - kept_files(table) if old else ():
        forgotten[span_id_of(path)].append(path)
    for day in lake.spans.days() if forgotten else ():
        for span in lake.spans.spans_of(day):
            if span.span_id in forgotten and (table is lake.spans.table or is_added(span, table)):
                gone.update(forgotten[span.span_id])
    for path in gone:
        table.storage.delete(path)
    return len(gone)


def delete_replaced(table: Table) -> int:
    """Delete the files that a table's newest version does not have and an older one had; return how many.

    Who reads an older version right now meets an error and reads again.
    """
    table.refresh()
    replaced = table.delta.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False)
    for path in replaced:
        table.storage.delete(path)
    return len(replaced)
