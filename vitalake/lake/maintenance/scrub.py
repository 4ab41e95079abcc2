"""The scrub: reads every file of every table once a week, a slice at a time, and checks its digest.

Most files are hardly ever read. Without the scrub, damage would be noticed only when the other copies are gone too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from vitalake.lake.tables.digests import Damaged, Record, check_content, digest_in, read_digest, record, recorded
from vitalake.lake.tables.table import StagedFile, Table

EVERY_SECONDS = 7 * 86_400
"""Time between two checks of a file, so that a daily run checks about a seventh of the files."""

SLICE_BYTES = 1 << 30
"""Bytes read in one run at most: some seconds of a process with low priority."""


@dataclass(slots=True)
class Scrubbed:
    """What a scrub of a table found.

    Attributes:
        table: the table's name.
        files: files that were read.
        bytes: bytes of those files.
        recorded: files without a digest in their name, whose digest was recorded for the first time.
        damaged: files that do not hold what was written to them, or are missing.
    """

    table: str
    files: int = 0
    bytes: int = 0
    recorded: int = 0
    damaged: list[StagedFile] = field(default_factory=list)


def scrub(
    table: Table,
    *,
    most_bytes: int = SLICE_BYTES,
    every_seconds: float = EVERY_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> Scrubbed:
    """Check the files of a table that were not checked for longest; record which were found good, and when.

    Args:
        table: nothing else may use the object during the call.
        most_bytes: stop after this many bytes, and at most one file more.
        every_seconds: files that were written or checked within this time are skipped; 0: all are checked.
        progress: called with each file's path before it is read.

    Raises:
        Damaged: the log, or the record beside the table, cannot be read.
        OSError, ServiceUnavailable: storage cannot be reached.
    """
    table.refresh()
    records, now, done = recorded(table.storage), time.time(), Scrubbed(table.name)
    files = table.snapshot().files
    kept = {path: entry for path, entry in records.items() if path in files}
    for file in _due(table, files.values(), kept, before=now - every_seconds):
        if done.bytes >= most_bytes:
            break
        if progress:
            progress(file.path)
        found = check_file(table, file, kept.get(file.path, Record()))
        done.files, done.bytes = done.files + 1, done.bytes + file.size
        if found is None:
            done.damaged.append(file)
            continue
        done.recorded += bool(found.digest) and file.path not in records
        kept[file.path] = found
    if kept != records:
        record(table.storage, kept)
    if done.damaged:  # a file that was replaced during the scrub is not damaged
        newest = table.newest().snapshot().files
        done.damaged = [file for file in done.damaged if file.path in newest]
    return done


def record_older_files(table: Table) -> Scrubbed:
    """Record the digests of all files of earlier releases that have none yet; see ``scrub``."""
    return scrub(table, most_bytes=sys.maxsize, every_seconds=time.time())


def check_file(table: Table, file: StagedFile, known: Record) -> Record | None:
    """Read a file; return the record of the check. None: it is damaged or missing.

    Raises:
        OSError: storage cannot be reached.
    """
    now = int(time.time())
    try:
        if digest_in(file.path) or known.digest:
            check_content(table.storage, file.path, digest=known.digest)
            return Record(known.digest, now)
        table.storage.read_parquet(file.path)  # without a digest, reading it is the only check
        return Record(read_digest(table.storage, file.path), now)
    except (Damaged, FileNotFoundError, pa.ArrowException):
        return None


def _due(
    table: Table, files: Iterable[StagedFile], records: dict[str, Record], *, before: float
) -> Iterable[StagedFile]:
    """Return the files to be checked: first those without a digest, then those not checked for longest."""
    actions = pa.table(table.delta.get_add_actions())
    written = dict(
        zip(actions["path"].to_pylist(), actions["modification_time"].cast(pa.int64()).to_pylist(), strict=True)
    )

    def last(file: StagedFile) -> float:
        entry = records.get(file.path)
        if entry is None and digest_in(file.path) is None:
            return -1
        return max(written[file.path] / 1000, entry.checked if entry else 0)

    return sorted((file for file in files if last(file) <= before), key=lambda file: (last(file), file.path))
