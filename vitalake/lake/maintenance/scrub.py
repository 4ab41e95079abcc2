"""The scrub: every file of every table is read and its digest taken once a week, a slice at a time.

Most files are never asked for; without it what has rotted would be noticed when its other copies have gone as well.
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
"""Between two looks at a file; each day has its seventh of them."""

SLICE_BYTES = 1 << 30
"""Read at most in one go: some seconds of a nice process."""


@dataclass(slots=True)
class Scrubbed:
    """What a scrub of a table found.

    Attributes:
        table: its name.
        files: that were read.
        bytes: of those.
        recorded: files of before, whose digest was taken for the first time.
        damaged: files that do not hold what was written to them, or are gone.
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
    """Look at the files of a table that nobody has looked at for longest; record what was found good, and when.

    Args:
        table: not to be used by anything else meanwhile.
        most_bytes: read so many, and one file more at the most.
        every_seconds: files that were written or looked at since are passed over; 0: all are looked at.
        progress: told each file's path before it is read.

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
        found = look_at(table, file, kept.get(file.path, Record()))
        done.files, done.bytes = done.files + 1, done.bytes + file.size
        if found is None:
            done.damaged.append(file)
            continue
        done.recorded += bool(found.digest) and file.path not in records
        kept[file.path] = found
    if kept != records:
        record(table.storage, kept)
    if done.damaged:  # what was replaced while we read is no damage
        there = table.newest().snapshot().files
        done.damaged = [file for file in done.damaged if file.path in there]
    return done


def record_before(table: Table) -> Scrubbed:
    """Take the digests of all files of before that have none yet; see ``scrub``."""
    return scrub(table, most_bytes=sys.maxsize, every_seconds=time.time())


def look_at(table: Table, file: StagedFile, known: Record) -> Record | None:
    """Read a file; return what is to be recorded of it, None: it is damaged, or gone.

    Raises:
        OSError: storage cannot be reached.
    """
    now = int(time.time())
    try:
        if digest_in(file.path) or known.digest:
            check_content(table.storage, file.path, digest=known.digest)
            return Record(known.digest, now)
        table.storage.read_parquet(file.path)  # what can be read at all; better cannot be known of it
        return Record(read_digest(table.storage, file.path), now)
    except (Damaged, FileNotFoundError, pa.ArrowException):
        return None


def _due(
    table: Table, files: Iterable[StagedFile], records: dict[str, Record], *, before: float
) -> Iterable[StagedFile]:
    """Return the files to be looked at, those of before first, then those nobody has looked at for longest."""
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
