"""Values that the online store has written, the lake has not decided yet, and perhaps never will.

The patient of an attributed value follows from where its device was. A lane that is killed before it decides can know
more of the device when it starts again, and give the same value to another patient. A message that was put aside can
be discarded after a killed replay. So each such value is noted until the lake has decided it, and is deleted from the
store when the lane or the replay starts again without it being decided.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

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
"""How long a note is kept. After a day no lane comes back to decide the value, or it was decided without a report."""

_ENTRY = np.dtype([("row", ROW), ("patient", "<u4"), ("position", "<i8")])


class UndecidedWrites:
    """The table of notes; the store calls its methods within a transaction."""

    def __init__(self, connection: sqlite3.Connection, sealer: Seals) -> None:
        self._db, self._sealer = connection, sealer

    def note(self, values: Values) -> None:
        """Note values."""
        for i, part in enumerate(values.parts):
            self._put(part, values.where(values.part == i), clock.now_us())

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
        """Rewrite the notes without the values of some patients; return how many values were removed."""
        count = 0
        for number, part, noted_us, values, wanted in self._wanted(is_wanted):
            count += int(wanted.sum())
            self._db.execute("DELETE FROM ahead WHERE rowid = ?", (number,))
            self._put(part, values.where(~wanted), noted_us)
        return count

    def held(self, is_wanted: Callable[[str], bool]) -> int:
        """Return how many noted values are of some patients."""
        return sum(int(wanted.sum()) for *_, wanted in self._wanted(is_wanted))

    def _wanted(
        self, is_wanted: Callable[[str], bool]
    ) -> Iterator[tuple[int, str, int, Values, npt.NDArray[np.bool_]]]:
        """Yield each note with values of some patients: its number, partition, time, values, and which are theirs."""
        query = "SELECT rowid, part, position, noted_us, sealed FROM ahead"
        for number, part, last, noted_us, sealed in self._db.execute(query).fetchall():
            values = self._opened(part, last, sealed)
            wanted = np.array([is_wanted(patient) for patient in values.patients], np.bool_)[values.patient]
            if wanted.any():
                yield number, part, noted_us, values, wanted

    def settle(self, positions: Mapping[str, int]) -> None:
        """Delete the notes before these positions: the lake has decided up to there."""
        self._db.executemany("DELETE FROM ahead WHERE part = ? AND position < ?", positions.items())

    def prune(self) -> None:
        """Delete notes older than KEPT_US."""
        self._db.execute("DELETE FROM ahead WHERE noted_us < ?", (clock.now_us() - KEPT_US,))

    def undecided(self, part: str, position: int) -> Iterator[Values]:
        """Yield the noted values of a partition from a position on."""
        notes = self._db.execute(
            "SELECT position, sealed FROM ahead WHERE part = ? AND position >= ? ORDER BY rowid", (part, position)
        ).fetchall()
        for last, sealed in notes:
            values = self._opened(part, last, sealed)
            yield values.where(values.position >= position)

    def _opened(self, part: str, last: int, sealed: bytes) -> Values:
        opened = self._sealer.open(sealed, context=_context(part, last))
        patients, raw = msgspec.msgpack.decode(opened, type=tuple[list[str], bytes])
        entries = restored_as(raw, _ENTRY)
        only_part = np.zeros(len(entries), np.int32)
        owner = entries["patient"].astype(np.int32)
        return Values(entries["row"].copy(), owner, patients, entries["position"].copy(), only_part, [part])

    def holds(self, part: str) -> bool:
        """Return whether any value of a partition is noted."""
        return self._db.execute("SELECT 1 FROM ahead WHERE part = ? LIMIT 1", (part,)).fetchone() is not None

    def forget(self, part: str) -> None:
        """Delete all notes of a partition."""
        self._db.execute("DELETE FROM ahead WHERE part = ?", (part,))


def _context(part: str, last: int) -> bytes:
    return f"ahead\n{part}\n{last}".encode()
