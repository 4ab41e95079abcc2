"""The digests of erased patients, of whom nothing is stored any more."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable


def digest_of(patient: str) -> bytes:
    """Return the SHA-256 of a pseudonym."""
    return hashlib.sha256(patient.encode()).digest()


class Forgotten:
    """The table of digests."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def note(self, digests: Iterable[bytes]) -> None:
        """Note digests; the store calls it within a transaction."""
        self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", [(digest,) for digest in digests])

    def among(self, patients: Iterable[str]) -> set[str]:
        """Return those of the patients who are forgotten."""
        forgotten = {row[0] for row in self._db.execute("SELECT digest FROM forgotten")}
        return {patient for patient in patients if digest_of(patient) in forgotten} if forgotten else set()
