"""What keeps tables quick and clean: expiry, compaction and vacuum, table by table; the sweeper goes job by job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.compaction import MIN_FILES, compact
from vitalake.lake.maintenance.expiry import expire, expires
from vitalake.lake.maintenance.vacuum import vacuum as delete_replaced
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
    """Delete what has expired, compact tables, and delete what was replaced over a week ago; yield what was done.

    Days before today are put into buckets, of datasets that want them.

    Args:
        lake: opened afresh; not used by anything else meanwhile.
        tables: of this lake.
        min_files: days with fewer small files are left as they are.
        vacuum: whether to delete replaced files.
        progress: told what is merged.

    Raises:
        LakeError, ServiceUnavailable: what is done stays done.
    """
    today = str(clock.now().date())
    for table in tables:
        try:
            expired = expire(table, progress=progress) if expires(table) else None
        except Damaged as error:  # what else there is to do does not wait for its repair
            _log.error("nothing expires", extra={"what": error.what, "where": error.where})
            expired = None
        done = asdict(compact(table, min_files=min_files, buckets_before=today, progress=progress))
        if expired is not None:
            done["expired"] = expired
        if vacuum:
            done["deleted"] = delete_replaced(lake, table)
        yield done
