"""Published rows of an earlier release that say where their message lay, and when it came, are made to hide it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.buckets import Bucket, bucket_of
from vitalake.lake.compaction import TARGET_ROWS, sort_keys
from vitalake.lake.message_tokens import MessageTokens, in_clear
from vitalake.lake.own_times import with_marks
from vitalake.lake.rewrite import Rows, read_file, rewrite
from vitalake.lake.sorting import joined, no_order, sort_by
from vitalake.lake.staging import Counted, Piece
from vitalake.lake.table import Snapshot, StagedFile, Table
from vitalake.lake.unranked import Unranked, ranks, record_key
from vitalake.lake.vacuum import delete_replaced


def position_column(table: Table) -> str | None:
    """Return the column of a published table that must hold tokens; None: it has none."""
    return next((column.name for column in table.dataset.columns if column.token_with), None)


def rows_in_clear(table: Table, file: StagedFile) -> int:
    """Return how many rows of a file say where their message lay."""
    column = position_column(table)
    if column is None:
        return 0
    return sum(in_clear(part[column]) for part in read_file(table, file, columns=[column]))


def hide_positions(
    table: Table,
    tokens: MessageTokens,
    unranked: Unranked,
    *,
    counted: Counted | None = None,
) -> int:
    """Put tokens in the place of positions, a day at a time, and delete the files of before; return how many rows.

    Times of ours in the same rows become those that are published today: who has a position has them as they were.

    Safe beside appends and readers, and to repeat: a token is never taken for a position. Files keep their buckets.

    Args:
        table: of published rows; not to be used by anything else meanwhile.
        tokens: makes them.
        unranked: makes what is published of times of ours, and of versions.
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
            part = joined(
                [_hidden(table, batch, tokens, unranked) for file in files for batch in read_file(table, file)]
            )
            keys = sort_keys(table.dataset, by_patient=bucket is not None)
            yield Piece(sort_by(part, keys, last=no_order(part, table.dataset)), bucket)

    while done := rewrite(table, plan, transform, data_change=True, counted=counted):
        rows += done.rows
    delete_replaced(table)
    return rows


def _hidden(table: Table, rows: pa.Table, tokens: MessageTokens, unranked: Unranked) -> pa.Table:
    rows = _without_ranks(table, rows, unranked)
    for column in table.dataset.columns:
        if column.token_with:
            made = _by_chunk(rows[column.token_with], rows[column.name], tokens)
            rows = rows.set_column(rows.schema.get_field_index(column.name), column.name, made)
    return rows


def _without_ranks(table: Table, rows: pa.Table, unranked: Unranked) -> pa.Table:
    before = pc.fill_null(pc.greater_equal(rows[position_column(table)], 0), False).combine_chunks()
    ranking, key = [column for column in table.dataset.columns if ranks(column)], record_key(table.dataset)
    named = list(dict.fromkeys((*key, *(column.name for column in ranking))))
    given = with_marks(rows, table.dataset).select(named)
    batch = pa.RecordBatch.from_arrays([column.combine_chunks() for column in given.columns], names=named)
    for column in ranking:
        made = unranked(column, batch, lambda: [batch.column(name) for name in key], table.dataset)
        made = pc.if_else(before, made, rows[column.name].combine_chunks())
        rows = rows.set_column(rows.schema.get_field_index(column.name), column.name, made)
    return rows


def _by_chunk(sources: pa.ChunkedArray, positions: pa.ChunkedArray, tokens: MessageTokens) -> pa.ChunkedArray:
    parts: Iterable[pa.RecordBatch] = pa.table({"source": sources, "position": positions}).to_batches()
    return pa.chunked_array([tokens(part["source"], part["position"]) for part in parts], pa.int64())
