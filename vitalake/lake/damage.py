"""What is wrong with a table's files, said by the file: which table, day and rows; for readers, and for repair."""

from __future__ import annotations

from collections.abc import Iterable

from vitalake.lake.digests import MARKS, Damaged, Marks, check, damaged, recorded
from vitalake.lake.table import Snapshot, StagedFile, Table


def lost(table: Table) -> Damaged | None:
    """Return what to say when a file was not found: one that the newest version has is lost; None: none is.

    A reader of an older version may have come too late for a file that was replaced. The table is refreshed.

    Raises:
        LakeError, ServiceUnavailable: the log cannot be read.
    """
    table.refresh()
    missing = [file for file in table.snapshot().files.values() if not table.storage.exists(file.path)]
    return described(table, missing[0], "is gone") if missing else None


def described(table: Table, file: StagedFile, how: str = "does not hold what was written to it") -> Damaged:
    """Return what to say of a damaged file, its day and number of rows with it."""
    error = damaged(table.storage, file.path, how)
    return Damaged(error.what, where=f"{error.where} ({file.rows:,} rows)", remedy=error.remedy)


def sound_snapshot(table: Table, *, marks: Marks = MARKS) -> Snapshot:
    """Return the table's newest version, every file of it found good within a day, and there.

    Raises:
        Damaged: a file is not.
        LakeError, ServiceUnavailable: the log cannot be read.
        OSError: files vanish faster than they can be looked at.
    """
    for _ in range(3):
        snapshot = table.snapshot()
        try:
            for file, _how in problems(table, snapshot.files.values(), marks=marks):
                raise described(table, file)
        except FileNotFoundError:
            error = lost(table)
            if error is not None:
                raise error from None
            continue
        return snapshot
    raise OSError


def problems(table: Table, files: Iterable[StagedFile], *, marks: Marks) -> Iterable[tuple[StagedFile, str]]:
    """Yield the files that do not hold what was written to them.

    Raises:
        FileNotFoundError: one is gone.
    """
    records = recorded(table.storage)
    for file in files:
        record = records.get(file.path)
        try:
            check(table.storage, file.path, marks=marks, digest=record.digest if record else "")
        except Damaged as error:
            yield file, error.what
