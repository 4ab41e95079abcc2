"""Mixes the rows of files that follow one another in a source's order, so that the order of files tells nothing."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from vitalake.lake.maintenance.compaction import MEMORY_ROWS, sort_keys
from vitalake.lake.maintenance.rewrite import Rows, rewrite
from vitalake.lake.maintenance.vacuum import delete_replaced, span_id_of
from vitalake.lake.tables.sorting import joined, no_order, sort_by
from vitalake.lake.tables.table import Snapshot, StagedFile, Table


def mix(table: Table, begins: str) -> int:
    """Rewrite the files of a source's spans where a day has several, and delete them; return how many rows.

    This includes spans that a killed load has decided earlier and left in its order.

    Safe while others append or read. While a republish locks the table nothing is done, because the republish makes
    all files again.

    Args:
        table: of published rows; nothing else may use the object during the call.
        begins: the prefix of the names of these spans.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    rows = 0

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        days: dict[str | None, list[StagedFile]] = defaultdict(list)
        for file in snapshot.files.values():
            if span_id_of(file.path).startswith(begins):
                days[file.day].append(file)
        return next((files for files in days.values() if len(files) > 1), [])

    def transform(read: Rows) -> Iterator[pa.Table]:
        parts, seed = -(-read.count // MEMORY_ROWS), secrets.randbits(64)
        keys = sort_keys(table.dataset)
        for part in range(parts):  # each pass draws the same random parts, from the same seed
            lots = np.random.default_rng(seed)
            drawn = [batch.filter(pa.array(lots.integers(parts, size=batch.num_rows) == part)) for batch in read]
            mine = joined(drawn)
            if mine.num_rows:
                yield sort_by(mine, keys, last=no_order(mine, table.dataset))

    while done := rewrite(table, plan, transform):
        rows += done.rows
    if rows:
        delete_replaced(table)
    return rows
