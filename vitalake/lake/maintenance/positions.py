"""Rewrites published rows of an earlier release that show their message's position, arrival time or source version.

Afterwards they hide these as rows that are published today do, as far as the published row itself allows it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.maintenance.compaction import TARGET_ROWS, sort_keys
from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite
from vitalake.lake.maintenance.vacuum import delete_replaced
from vitalake.lake.tables.buckets import Bucket, bucket_of
from vitalake.lake.tables.sorting import joined, no_order, sort_by
from vitalake.lake.tables.staging import Counted, Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table
from vitalake.lake.unlinkable.message_tokens import MessageTokens, says_partition, without_partitions
from vitalake.lake.unlinkable.own_times import with_marks
from vitalake.lake.unlinkable.record_versions import versions_in_clear
from vitalake.lake.unlinkable.unranked import Unranked, ranks, record_key


def position_column(table: Table) -> str | None:
    """Return the column of a published table that must hold tokens instead of positions; None: it has none."""
    return next((column.name for column in table.dataset.columns if column.token_with), None)


def rows_in_clear(table: Table, file: StagedFile) -> int:
    """Return how many rows of a file show their message's position or partition, or the version of its source."""
    position = position_column(table)
    if position is None:
        return 0
    hiding = [c.name for c in table.dataset.columns if c.token_with or c.counts or c.name in table.dataset.sources]
    parts = (part for rows in read_file(table, file, columns=hiding) for part in rows.to_batches())
    return sum(int(_in_clear(table, part).sum()) for part in parts)


def _in_clear(table: Table, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    clear = _have_position(table, rows)
    for column in table.dataset.columns:
        if column.counts:
            clear |= versions_in_clear(rows.column(column.name))
        if column.name in table.dataset.sources:
            clear |= says_partition(rows.column(column.name)).to_numpy(zero_copy_only=False)
    return clear


def _have_position(table: Table, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Return which rows have a position: an earlier release wrote them, with times and versions in clear."""
    positions = rows.column(str(position_column(table)))
    before: npt.NDArray[np.bool_] = positions.fill_null(-1).to_numpy(zero_copy_only=False) >= 0
    return before


def hide_positions(
    table: Table,
    tokens: MessageTokens,
    unranked: Unranked,
    *,
    stamping: Collection[str] = (),
    counted: Counted | None = None,
) -> int:
    """Replace positions by tokens, a day at a time, and delete the replaced files; return how many rows were written.

    Sources become topics, and versions become numbers that keep only the order within their record. In a row with a
    position, times of ours become the times that are published today.

    Safe while others append or read, and safe to repeat: a hidden value is always recognised and stays as it is. Files
    keep their buckets.

    Args:
        table: of published rows; nothing else may use the object during the call.
        tokens: makes the tokens.
        unranked: makes the published times of ours and the published versions.
        stamping: topics of senders that stamp their observations, see ``with_marks``.
        counted: called with the number of rows made since its last call.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    rows, hidden = 0, set[str]()

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        chosen: list[StagedFile] = []
        for file in sorted(snapshot.files.values(), key=lambda file: (str(file.day), file.path)):
            if chosen and (file.day != chosen[0].day or sum(f.rows for f in chosen) + file.rows > TARGET_ROWS):
                break
            if file.path not in hidden:
                if rows_in_clear(table, file):
                    chosen.append(file)
                else:
                    hidden.add(file.path)
        return chosen

    def transform(read: Rows) -> Iterator[Piece]:
        by_bucket: dict[Bucket | None, list[StagedFile]] = defaultdict(list)
        for file in read.files:
            by_bucket[bucket_of(file.path)].append(file)
        for bucket, files in by_bucket.items():
            batches = (batch for file in files for batch in read_file(table, file))
            part = joined([_hidden(table, batch, tokens, unranked, stamping) for batch in batches])
            keys = sort_keys(table.dataset, by_patient=bucket is not None)
            yield Piece(sort_by(part, keys, last=no_order(part, table.dataset)), bucket)

    while done := rewrite(table, plan, transform, data_change=True, counted=counted):
        rows += done.rows
    delete_replaced(table)
    return rows


def _hidden(
    table: Table, rows: pa.Table, tokens: MessageTokens, unranked: Unranked, stamping: Collection[str]
) -> pa.Table:
    rows = _without_ranks(table, rows, unranked, stamping)
    for column in table.dataset.columns:
        if column.token_with:
            made = _by_chunk(rows[column.token_with], rows[column.name], tokens)
            rows = rows.set_column(rows.schema.get_field_index(column.name), column.name, made)
    for name in table.dataset.sources:
        topics = without_partitions(rows[name].combine_chunks())
        rows = rows.set_column(rows.schema.get_field_index(name), name, topics)
    return rows


def _without_ranks(table: Table, rows: pa.Table, unranked: Unranked, stamping: Collection[str]) -> pa.Table:
    whole = rows.combine_chunks().to_batches()
    if not whole:
        return rows
    before = _have_position(table, whole[0])
    ranking, key = [column for column in table.dataset.columns if ranks(column)], record_key(table.dataset)
    named = list(dict.fromkeys((*key, *(column.name for column in ranking))))
    given = with_marks(rows, table.dataset, stamping=stamping)
    columns = [
        pc.if_else(pa.array(before), given[name].combine_chunks(), rows[name].combine_chunks()) for name in named
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=named)
    for column in ranking:
        changing = before | versions_in_clear(batch.column(column.name)) if column.counts else before
        if not changing.any():
            continue
        made = unranked(column, batch, lambda: [batch.column(name) for name in key], table.dataset)
        made = pc.if_else(pa.array(changing), made, rows[column.name].combine_chunks())
        rows = rows.set_column(rows.schema.get_field_index(column.name), column.name, made)
    return rows


def _by_chunk(sources: pa.ChunkedArray, positions: pa.ChunkedArray, tokens: MessageTokens) -> pa.ChunkedArray:
    parts: Iterable[pa.RecordBatch] = pa.table({"source": sources, "position": positions}).to_batches()
    return pa.chunked_array([tokens(part["source"], part["position"]) for part in parts], pa.int64())
