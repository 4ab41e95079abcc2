"""The vacuum: deletes files that were replaced longer ago than the retention, so that no reader needs them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from vitalake import clock
from vitalake.lake.commits.adding import is_added
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span_log import SpanLog
from vitalake.lake.tables.table import Table

RETENTION_HOURS = 168
"""How long replaced files stay for readers of an older version: Delta's default. The log forgets them after as long."""

SPAN_FILE = re.compile(r"(?P<span_id>(?P<job>[a-z0-9-]+)\.(?P<shard>\w+)\.e(?P<epoch>\d+)\.[0-9a-f]{32})")
"""The names of files that spans have staged."""


def span_id_of(path: str) -> str:
    """Return the id of the span that staged a file; empty if no span did."""
    match = SPAN_FILE.match(path.rpartition("/")[2])
    return match["span_id"] if match else ""


def replaced_files(table: Table) -> set[str]:
    """Return the files that were replaced and wait for the vacuum, as far as the log still knows them."""
    table.refresh()
    return set(table.delta.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False))


def kept_files(table: Table) -> set[str]:
    """Return the files of the newest snapshot, and those that were replaced and wait for the vacuum."""
    replaced = replaced_files(table)
    return replaced | table.snapshot().files.keys()


def forgotten_files(table: Table, spans: SpanLog, paths: Iterable[str], *, since: str = "") -> set[str]:
    """Return those of some files that were replaced so long ago that the log has forgotten them.

    These are the files of spans that were added to the table. The log forgets after a week which files were replaced
    (delta.deletedFileRetentionDuration), whether they were deleted or not.

    Args:
        table: just refreshed.
        spans: says which spans were decided.
        paths: files that neither the newest version nor the log knows.
        since: ISO date; spans that were decided on an earlier day are not read.
    """
    staged_by = defaultdict(list)
    for path in paths:
        staged_by[span_id_of(path)].append(path)
    forgotten: set[str] = set()
    for span in spans.all_spans(since=since) if staged_by else ():
        if span.span_id in staged_by and (table is spans.table or is_added(span, table)):
            forgotten.update(staged_by[span.span_id])
    return forgotten


def vacuum(lake: Lake, table: Table, *, retention_hours: int = RETENTION_HOURS) -> int:
    """Delete a table's files that were replaced longer ago than the retention; return how many.

    Files that the log has forgotten go too. Files that were never committed are left to the sweeper.

    Raises:
        DeltaError, OSError: storage cannot be reached.
    """
    table.refresh()
    gone = set(table.delta.vacuum(retention_hours, dry_run=False, enforce_retention_duration=False))
    oldest = clock.now().timestamp() - max(retention_hours, RETENTION_HOURS) * 3600
    old = {path for path, changed in table.storage.files().items() if changed < oldest}
    if old:
        gone |= forgotten_files(table, lake.spans, old - kept_files(table))
    for path in gone:
        table.storage.delete(path)
    return len(gone)


def delete_replaced(table: Table) -> int:
    """Delete the files that were replaced, without waiting for the retention; return how many.

    A process that is reading an older version gets an error and reads again.
    """
    replaced = replaced_files(table)
    for path in replaced:
        table.storage.delete(path)
    return len(replaced)
