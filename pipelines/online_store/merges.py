"""Which numbers are given up for others: what is said of one is of the one that it was merged into.

A number stands under its pseudonym, whom it was merged into is sealed: nobody reads out of the file who was two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

from vitalake import clock
from vitalake.sealing import Seals

TABLES = """
CREATE TABLE IF NOT EXISTS merged (
    patient TEXT PRIMARY KEY, version INTEGER NOT NULL, noted_us INTEGER NOT NULL, sealed BLOB NOT NULL
) WITHOUT ROWID;
"""


class Merges:
    """The notes; written within transactions of the store."""

    def __init__(self, connection: sqlite3.Connection, sealer: Seals) -> None:
        self._db, self._sealer = connection, sealer

    def note(self, patient: str, into: str, version: int) -> bool:
        """Note that a number was merged into another; return whether that counts: a later version does.

        Where the other one had been merged into this one before, the later of the two merges counts.
        """
        before, others = self._of(patient), self._of(into)
        if patient == into or (before is not None and before[0] > version):
            return False
        if others is not None and patient in self._chain(into):
            if others[0] > version:
                return False
            self._db.execute("DELETE FROM merged WHERE patient = ?", (into,))
        sealed = self._sealer.seal(into.encode(), context=_context(patient))
        noted = (patient, version, clock.now_us(), sealed)
        self._db.execute("INSERT OR REPLACE INTO merged VALUES (?, ?, ?, ?)", noted)
        return True

    def survivor(self, patient: str) -> str:
        """Return whom a number was merged into, and that one again; the number itself where it was not."""
        return self._chain(patient)[-1]

    def _chain(self, patient: str) -> list[str]:
        chain = [patient]
        while (known := self._of(chain[-1])) is not None and known[1] not in chain:
            chain.append(known[1])
        return chain

    def survivors(self, patients: Iterable[str]) -> dict[str, str]:
        """Return of those of some numbers that were merged whom into."""
        there = {row[0] for row in self._db.execute("SELECT patient FROM merged")}
        return {patient: self.survivor(patient) for patient in patients if patient in there} if there else {}

    def prune(self, horizon_us: int, on_the_ward: Collection[str]) -> None:
        """Forget the merges of before the horizon into numbers of which nothing is there."""
        old = self._db.execute("SELECT patient FROM merged WHERE noted_us < ?", (horizon_us,)).fetchall()
        gone = [(patient,) for (patient,) in old if self.survivor(patient) not in on_the_ward]
        self._db.executemany("DELETE FROM merged WHERE patient = ?", gone)

    def forget(self, patients: Iterable[str]) -> None:
        """Forget whom numbers were merged into."""
        self._db.executemany("DELETE FROM merged WHERE patient = ?", [(patient,) for patient in patients])

    def _of(self, patient: str) -> tuple[int, str] | None:
        row = self._db.execute("SELECT version, sealed FROM merged WHERE patient = ?", (patient,)).fetchone()
        return None if row is None else (row[0], self._sealer.open(row[1], context=_context(patient)).decode())


def _context(patient: str) -> bytes:
    return f"merged\n{patient}".encode()
