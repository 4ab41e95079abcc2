"""Merges of patient numbers: whatever comes for a number that was given up belongs to the number that survives.

The number that was given up is stored as a pseudonym, the surviving one is sealed. So the file does not show which
pseudonyms belong to one person. What was stored before the merge is moved by merge_moves.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

from pipelines.online_store.facts import GivenFact, Person
from vitalake import clock
from vitalake.sealing import Seals

TABLES = """
CREATE TABLE IF NOT EXISTS merged (
    patient TEXT PRIMARY KEY, version INTEGER NOT NULL, noted_us INTEGER NOT NULL, sealed BLOB NOT NULL
) WITHOUT ROWID;
"""

OF_ANOTHER = "~merged"
"""Prefix of the key of a Person that was given for a number since merged; such keys sort after the patient's own."""


class Merges:
    """The table of merges; the store calls its writing methods within a transaction."""

    def __init__(self, connection: sqlite3.Connection, sealer: Seals) -> None:
        self._db, self._sealer = connection, sealer

    def note(self, patient: str, into: str, version: int) -> bool:
        """Note that a number was merged into another; return False when a later merge is known, and nothing is noted.

        Where the other number had been merged into this one before, the later of the two merges counts.
        """
        known, reverse = self._of(patient), self._of(into)
        if patient == into or (known is not None and known[0] > version):
            return False
        if reverse is not None and patient in self._chain(into):
            if reverse[0] > version:
                return False
            self._db.execute("DELETE FROM merged WHERE patient = ?", (into,))
        sealed = self._sealer.seal(into.encode(), context=_context(patient))
        row = (patient, version, clock.now_us(), sealed)
        self._db.execute("INSERT OR REPLACE INTO merged VALUES (?, ?, ?, ?)", row)
        return True

    def survivor(self, patient: str) -> str:
        """Return the number at the end of a chain of merges; the number itself where it was not merged."""
        return self._chain(patient)[-1]

    def _chain(self, patient: str) -> list[str]:
        chain = [patient]
        while (merge := self._of(chain[-1])) is not None and merge[1] not in chain:
            chain.append(merge[1])
        return chain

    def survivors(self, patients: Iterable[str]) -> dict[str, str]:
        """Return the surviving number of each of the given numbers that was merged."""
        given_up = {row[0] for row in self._db.execute("SELECT patient FROM merged")}
        return {patient: self.survivor(patient) for patient in patients if patient in given_up} if given_up else {}

    def prune(self, horizon_us: int, on_the_ward: Collection[str]) -> None:
        """Delete merges noted before the horizon whose surviving number is not on the ward."""
        old = self._db.execute("SELECT patient FROM merged WHERE noted_us < ?", (horizon_us,)).fetchall()
        gone = [(patient,) for (patient,) in old if self.survivor(patient) not in on_the_ward]
        self._db.executemany("DELETE FROM merged WHERE patient = ?", gone)

    def forget(self, patients: Iterable[str]) -> None:
        """Delete the merges of these numbers."""
        self._db.executemany("DELETE FROM merged WHERE patient = ?", [(patient,) for patient in patients])

    def _of(self, patient: str) -> tuple[int, str] | None:
        row = self._db.execute("SELECT version, sealed FROM merged WHERE patient = ?", (patient,)).fetchone()
        return None if row is None else (row[0], self._sealer.open(row[1], context=_context(patient)).decode())


def as_of_survivor(given: GivenFact, into: str) -> GivenFact:
    """Return a merged number's fact as the surviving number's; a Person gets a key that counts after the own ones."""
    _, key, version, fact = given
    if isinstance(fact, Person):
        return into, f"{OF_ANOTHER}{key}", version, fact
    return into, key, version, fact


def _context(patient: str) -> bytes:
    return f"merged\n{patient}".encode()
