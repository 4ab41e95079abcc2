"""Writes the new files of a rewrite, two at a time, because one encoder keeps one core busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from vitalake.lake.tables.buckets import Bucket, suffix_of
from vitalake.lake.tables.table import StagedFile, Table

WRITERS = 2
"""Files that are written at the same time."""

WAITING_ROWS = 2_000_000
"""Rows that may wait in memory to be written, or be written; with more the caller has to wait."""

Counted = Callable[[int], None]
"""Called with the number of rows made since its last call."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one new file, or of one file a day if they are of several days."""

    rows: pa.Table
    bucket: Bucket | None = None


def stage_all(
    table: Table,
    pieces: Iterable[pa.Table | Piece],
    *,
    stem: str,
    into: list[StagedFile],
    counted: Counted | None = None,
) -> None:
    """Stage piece after piece as ``<stem>-<i>-<j>``, and append the files to ``into``, also if it fails half-way.

    The rows keep their order: they were read from the table, or are sorted for it.

    Raises:
        OSError: storage refuses.
    """
    table.prepare()  # once, before several threads stage
    waiting: deque[tuple[int, Future[list[StagedFile]]]] = deque()
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="staging") as writers:
        try:
            for number, given in enumerate(pieces):
                piece = given if isinstance(given, Piece) else Piece(given)
                stage = partial(table.stage, stem=f"{stem}-{number}", suffix=suffix_of(piece.bucket), ordered=True)
                writing = writers.submit(stage, piece.rows)
                waiting.append((piece.rows.num_rows, writing))
                if counted:
                    counted(piece.rows.num_rows)
                while sum(rows for rows, _ in waiting) > WAITING_ROWS:
                    into.extend(waiting.popleft()[1].result())
            while waiting:
                into.extend(waiting.popleft()[1].result())
        finally:
            for _, future in waiting:
                if not future.cancel() and future.exception() is None:
                    into.extend(future.result())
