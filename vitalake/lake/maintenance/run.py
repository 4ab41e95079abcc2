"""Maintenance of tables: expiry, compaction and vacuum, table by table. The sweeper runs apart, job by job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.compaction import MIN_FILES, compact
from vitalake.lake.maintenance.expiry import expire, expires
from vitalake.lake.maintenance.vacuum import vacuum as vacuum_table
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.table import Table

_log = logging.getLogger(__name__)


def maintain(
    lake: Lake,
    tables: Iterable[Table],
    *,
    min_files: int = MIN_FILES,
    vacuum: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Delete expired rows, compact tables, and delete files replaced over a week ago; yield what was done by table.

    Days before today are sorted into buckets if the dataset declares them.

    Args:
        lake: just opened; nothing else may use the object during the call.
        tables: tables of this lake.
        min_files: days with fewer small files are left as they are.
        vacuum: whether to delete replaced files.
        progress: called with each day before it is rewritten.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; what is done stays done.
    """
    today = str(clock.now().date())
    for table in tables:
        try:
            expired = expire(table, progress=progress) if expires(table) else None
        except Damaged as error:  # the other steps need not wait for the repair
            _log.error("nothing expires", extra={"what": error.what, "where": error.where})
            expired = None
        done = asdict(compact(table, min_files=min_files, buckets_before=today, progress=progress))
        if expired is not None:
            done["expired"] = expired
        if vacuum:
            done["deleted"] = vacuum_table(lake, table)
        yield done
