"""What the care store holds ahead of the lake's decisions, of values that are somebody's by where their device was.

Such a value may be somebody else's when its message is read again: a lane that was killed before it decided knows more
when it comes back. So it is noted until it is decided, and deleted where it was not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

import msgspec
import numpy as np

from vitalake import clock
from vitalake.care.values import ROW, Values
from vitalake.sealing import Sealer

TABLES = """
CREATE TABLE IF NOT EXISTS ahead (
    part TEXT NOT NULL, position INTEGER NOT NULL, noted_us INTEGER NOT NULL, sealed BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ahead_place ON ahead (part, position);
"""

KEPT_US = 86_400_000_000
"""After a day nobody comes back to decide it, or it was decided by somebody who did not say so."""

_ENTRY = np.dtype([("row", ROW), ("patient", "<u4"), ("position", "<i8")])


class Ahead:
    """The notes; within transactions of the store."""

    def __init__(self, connection: sqlite3.Connection, sealer: Sealer) -> None:
        self._db, self._sealer = connection, sealer

    def note(self, values: Values) -> None:
        """Note the values that are somebody's by where their device was."""
        chosen = values.where(values.rows["attribution"] > 0)
        for i, part in enumerate(values.parts):
            mine = np.flatnonzero(chosen.part == i)
            if not len(mine):
                continue
            entries = np.zeros(len(mine), _ENTRY)
            entries["row"], entries["position"] = chosen.rows[mine], chosen.position[mine]
            used, entries["patient"] = np.unique(chosen.patient[mine], return_inverse=True)
            body = msgspec.msgpack.encode(([chosen.patients[n] for n in used.tolist()], entries.tobytes()))
            last = int(entries["position"].max())
            sealed = self._sealer.seal(body, context=f"ahead\n{part}\n{last}".encode())
            self._db.execute("INSERT INTO ahead VALUES (?, ?, ?, ?)", (part, last, clock.now_us(), sealed))

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
            opened = self._sealer.open(sealed, context=f"ahead\n{part}\n{last}".encode())
            patients, raw = msgspec.msgpack.decode(opened, type=tuple[list[str], bytes])
            entries = np.frombuffer(raw, _ENTRY)
            entries = entries[entries["position"] >= position]
            nothing = np.zeros(len(entries), np.int32)
            owner = entries["patient"].astype(np.int32)
            yield Values(entries["row"].copy(), owner, patients, entries["position"].copy(), nothing, [part])

    def holds(self, part: str) -> bool:
        """Return whether anything of a partition is noted."""
        return self._db.execute("SELECT 1 FROM ahead WHERE part = ? LIMIT 1", (part,)).fetchone() is not None

    def forget(self, part: str) -> None:
        """Forget all notes of a partition."""
        self._db.execute("DELETE FROM ahead WHERE part = ?", (part,))
