"""Published rows of an earlier release that say where their message lay, when it came, and what its source counted.

They are made to hide it: as rows are published today, as far as the published row tells what it was made of.
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
    """Return the column of a published table that must hold tokens; None: it has none."""
    return next((column.name for column in table.dataset.columns if column.token_with), None)


def rows_in_clear(table: Table, file: StagedFile) -> int:
    """Return how many rows of a file say where their message lay, or what its source counted."""
    position = position_column(table)
    if position is None:
        return 0
    hiding = [c.name for c in table.dataset.columns if c.token_with or c.counts or c.name in table.dataset.sources]
    parts = (part for rows in read_file(table, file, columns=hiding) for part in rows.to_batches())
    return sum(int(_in_clear(table, part).sum()) for part in parts)


def _in_clear(table: Table, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    clear = _of_before(table, rows)
    for column in table.dataset.columns:
        if column.counts:
            clear |= versions_in_clear(rows.column(column.name))
        if column.name in table.dataset.sources:
            clear |= says_partition(rows.column(column.name)).to_numpy(zero_copy_only=False)
    return clear


def _of_before(table: Table, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Return which rows are of a release that published positions: those have times and versions as they were."""
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
    """Put tokens in the place of positions, a day at a time, and delete the files of before; return how many rows.

    Sources become topics, and versions numbers that keep their record's order. Times of ours become those that are
    published today where a row has a position: such a row has them as they were.

    Safe beside appends and readers, and to repeat: what is hidden is never taken for what is not, and stays as it is.
    Files keep their buckets.

    Args:
        table: of published rows; not to be used by anything else meanwhile.
        tokens: makes them.
        unranked: makes what is published of times of ours, and of versions.
        stamping: topics of senders that stamp their observations, see with_marks.
        counted: told how many rows were made.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; what is done stays done.
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
        of: dict[Bucket | None, list[StagedFile]] = defaultdict(list)
        for file in read.files:
            of[bucket_of(file.path)].append(file)
        for bucket, files in of.items():
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
    before = _of_before(table, whole[0])
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
