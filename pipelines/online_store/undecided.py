"""What the care store holds ahead of the lake's decisions, of values that are somebody's by where their device was.

Such a value may be somebody else's when its message is read again: a lane that was killed before it decided knows more
when it comes back. So it is noted until it is decided, and deleted where it was not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np

from pipelines.online_store.values import ROW, Values, restored_as, stored
from vitalake import clock
from vitalake.sealing import Seals

TABLES = """
CREATE TABLE IF NOT EXISTS ahead (
    part TEXT NOT NULL, position INTEGER NOT NULL, noted_us INTEGER NOT NULL, sealed BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ahead_place ON ahead (part, position);
"""

KEPT_US = 86_400_000_000
"""After a day nobody comes back to decide it, or it was decided by somebody who did not say so."""

_ENTRY = np.dtype([("row", ROW), ("patient", "<u4"), ("position", "<i8")])


class UndecidedWrites:
    """The notes; within transactions of the store."""

    def __init__(self, connection: sqlite3.Connection, sealer: Seals) -> None:
        self._db, self._sealer = connection, sealer

    def note(self, values: Values) -> None:
        """Note the values that are somebody's by where their device was."""
        chosen = values.where(values.rows["attribution"] > 0)
        for i, part in enumerate(values.parts):
            self._put(part, chosen.where(chosen.part == i), clock.now_us())

    def _put(self, part: str, values: Values, noted_us: int) -> None:
        if not len(values.rows):
            return
        entries = np.zeros(len(values.rows), _ENTRY)
        entries["row"], entries["position"] = values.rows, values.position
        used, entries["patient"] = np.unique(values.patient, return_inverse=True)
        body = msgspec.msgpack.encode(([values.patients[n] for n in used.tolist()], stored(entries)))
        last = int(entries["position"].max())
        sealed = self._sealer.seal(body, context=_context(part, last))
        self._db.execute("INSERT INTO ahead VALUES (?, ?, ?, ?)", (part, last, noted_us, sealed))

    def forget_patients(self, is_wanted: Callable[[str], bool]) -> int:
        """Write the notes anew without some patients; return how many values of theirs there were."""
        count = 0
        for number, part, last, noted_us, sealed in self._db.execute(
            "SELECT rowid, part, position, noted_us, sealed FROM ahead"
        ).fetchall():
            values = self._opened(part, last, sealed)
            wanted = np.array([is_wanted(patient) for patient in values.patients], np.bool_)[values.patient]
            if wanted.any():
                count += int(wanted.sum())
                self._db.execute("DELETE FROM ahead WHERE rowid = ?", (number,))
                self._put(part, values.where(~wanted), noted_us)
        return count

    def settle(self, positions: Mapping[str, int]) -> None:
        """Forget the notes of what lies before these positions: it is decided."""
        self._db.executemany("DELETE FROM ahead WHERE part = ? AND position < ?", positions.items())

    def prune(self) -> None:
        """Forget what is too old for anybody to come back to."""
        self._db.execute("DELETE FROM ahead WHERE noted_us < ?", (clock.now_us() - KEPT_US,))

    def undecided(self, part: str, position: int) -> Iterator[Values]:
        """Yield the values of a partition that lie at a position or behind it."""
        found = self._db.execute(
            "SELECT position, sealed FROM ahead WHERE part = ? AND position >= ? ORDER BY rowid", (part, position)
        ).fetchall()
        for last, sealed in found:
            values = self._opened(part, last, sealed)
            yield values.where(values.position >= position)

    def _opened(self, part: str, last: int, sealed: bytes) -> Values:
        opened = self._sealer.open(sealed, context=_context(part, last))
        patients, raw = msgspec.msgpack.decode(opened, type=tuple[list[str], bytes])
        entries = restored_as(raw, _ENTRY)
        nothing = np.zeros(len(entries), np.int32)
        owner = entries["patient"].astype(np.int32)
        return Values(entries["row"].copy(), owner, patients, entries["position"].copy(), nothing, [part])

    def holds(self, part: str) -> bool:
        """Return whether anything of a partition is noted."""
        return self._db.execute("SELECT 1 FROM ahead WHERE part = ? LIMIT 1", (part,)).fetchone() is not None

    def forget(self, part: str) -> None:
        """Forget all notes of a partition."""
        self._db.execute("DELETE FROM ahead WHERE part = ?", (part,))


def _context(part: str, last: int) -> bytes:
    return f"ahead\n{part}\n{last}".encode()
