"""Messages that were put aside may name the patient too: they are opened, searched, and written anew without them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dead_letters import open_message
from pipelines.erasure.certificate import TableErased
from vitalake.errors import PrivacyError
from vitalake.keys import KeyRing
from vitalake.lake.rewrite import Rows, read_file, rewrite
from vitalake.lake.table import Snapshot, StagedFile, Table

_BEFORE = rb"""(?i:["'/|^~&#=>]|["'][a-z_]*(?:patient|subject|person|mrn|pid)[a-z_]*["']\s*:\s*)"""
_AFTER = rb"""(?=["'/|^~&?#<\r\n,}\s]|$)"""
"""What stands around an identifier in JSON, a reference or HL7 v2. A number that is only somebody's value has a colon
before it, and no name of a patient before that."""


class Search:
    """Finds the messages that name a patient."""

    def __init__(self, identifiers: Sequence[str], keys: KeyRing) -> None:
        """Prepare.

        Args:
            identifiers: the patient's source id and record number.
            keys: to open the messages.
        """
        texts = sorted({re.escape(text.encode()) for text in identifiers if text})
        self._pattern = re.compile(_BEFORE + rb"(?:" + rb"|".join(texts) + rb")" + _AFTER) if texts else None
        self._keys = keys
        self.unreadable = 0

    def names(self, payload: bytes) -> bool:
        """Return whether a message names the patient."""
        return self._pattern is not None and self._pattern.search(payload) is not None

    def among(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which of these envelopes do; one that cannot be opened tells nobody anything, and is counted."""
        found = np.zeros(rows.num_rows, np.bool_)
        for i, row in enumerate(rows.to_pylist()):
            try:
                found[i] = self.names(open_message(row, self._keys).payload)
            except PrivacyError:
                self.unreadable += 1
        return found


def erase_letters(table: Table, search: Search) -> TableErased:
    """Remove the messages that name the patient from a quarantine table, older versions of its files included.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; safe to repeat.
    """
    verdicts: dict[str, int] = {}

    def hits(file: StagedFile) -> int:
        if file.path not in verdicts:
            verdicts[file.path] = sum(int(search.among(part).sum()) for part in read_file(table, file))
        return verdicts[file.path]

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        return [file for file in snapshot.files.values() if hits(file)]

    def transform(rows: Rows) -> list[pa.Table]:
        kept = [part.filter(pa.array(~search.among(part))) for part in rows]
        return [pa.concat_tables(kept)] if sum(part.num_rows for part in kept) else []

    table.refresh()
    searched = table.snapshot().files.values()
    done = rewrite(table, plan, transform, data_change=True)
    removed = done.removed if done else ()
    return TableErased(
        table=table.name,
        rows=sum(verdicts[file.path] for file in removed),
        files_searched=len(searched),
        bytes_searched=sum(file.size for file in searched),
        files_rewritten=len(removed),
        bytes_rewritten=sum(file.size for file in removed),
        files_deleted=_purge(table, search),
    )


def _purge(table: Table, search: Search) -> int:
    """Delete files that are not in the newest version and hold such messages; return how many."""
    table.refresh()
    current = table.snapshot().files
    deleted = 0
    for path in table.storage.files():
        if path in current:
            continue
        try:
            rows = table.storage.read_parquet(path)
        except (OSError, pa.ArrowException):  # a writer is at it, or was killed: the sweeper's
            continue
        if search.among(rows).any():
            table.storage.delete(path)
            deleted += 1
    return deleted
