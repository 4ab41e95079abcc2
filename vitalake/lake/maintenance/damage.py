"""Checks the files of a table's newest version against their digests, for readers of whole tables."""

from __future__ import annotations

from collections.abc import Iterable

from vitalake.lake.tables.digests import MARKS, Damaged, Marks, check, recorded
from vitalake.lake.tables.table import Snapshot, StagedFile, Table


def checked_snapshot(table: Table, *, marks: Marks = MARKS) -> Snapshot:
    """Return the table's newest version, after checking that every file exists and was found good within a day.

    Raises:
        Damaged: a file is damaged or missing.
        LakeError, ServiceUnavailable: the log cannot be read.
        OSError: files are replaced faster than they can be checked.
    """
    for _ in range(3):
        snapshot = table.snapshot()
        try:
            for file, _how in problems(table, snapshot.files.values(), marks=marks):
                raise table.damaged(file)
        except FileNotFoundError:
            error = table.lost_file()
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
