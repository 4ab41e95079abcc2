"""Writing the new files of a rewrite: two at a time, for one encoder keeps one core busy."""

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
"""Files written at once."""

WAITING_ROWS = 2_000_000
"""Rows that wait to be written, or are; whoever makes more of them waits too, for they are in memory."""

Counted = Callable[[int], None]
"""Told how many rows were made since it was told the last time."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one new file; of several, where they are of several days."""

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
    """Stage piece after piece, ``<stem>-<i>-<j>``, and append the files to ``into``: also when it fails half way.

    The rows stay in their order: they were read from the table, or are sorted for it.

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
