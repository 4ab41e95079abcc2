"""Whose a corrected value is: a correction may name another patient than what it corrects.

A patient's values are read without looking at anybody else's. So who has the corrected value is noted by the value's
id, and whatever is older of it and stands with another patient is left out, whichever of them came first.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.online_store.values import Values, stage_of
from vitalake import clock
from vitalake.clinical.statuses import CORRECTED

TABLES = """
CREATE TABLE IF NOT EXISTS corrected (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER UNIQUE NOT NULL, patient TEXT NOT NULL,
    version INTEGER NOT NULL, rank INTEGER NOT NULL, noted_us INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS corrected_patient ON corrected (patient);
"""

_RANK = stage_of(CORRECTED[0]) // 2
"""From this stage on a row says something of one that was there before."""

_MARKS = 0xFFFFF
"""The bits of an id by which most values are told to have no note: a look-up of each would take as long as a score."""

_PUT = """
INSERT INTO corrected (id, patient, version, rank, noted_us) VALUES (?, ?, ?, ?, ?)
"""


class _Correction(NamedTuple):
    patient: str
    version: int
    rank: int


class Corrections:
    """The notes; written within transactions of the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._known: dict[int, _Correction] = {}
        self._marks = np.zeros(_MARKS + 1, np.bool_)
        self._seen = 0
        self._generation = ""

    def note(self, values: Values) -> None:
        """Note who has the values that are corrections, or take something back; not those that only leave a patient."""
        rows = values.rows
        leaves = (rows["attribution"] > 0) & (rows["attribution"] % 2 == 0)
        chosen = np.flatnonzero(((rows["stage"] & 0xFF) // 2 >= _RANK) & ~leaves)
        for i in chosen.tolist():
            identity, version = _signed(rows["id"][i]), int(rows["version"][i])
            rank = (int(rows["stage"][i]) & 0xFF) // 2
            before = self._db.execute("SELECT version, rank FROM corrected WHERE id = ?", (identity,)).fetchone()
            if before is None or (version, rank) >= before:
                self._db.execute("DELETE FROM corrected WHERE id = ?", (identity,))
                patient = values.patients[values.patient[i]]
                self._db.execute(_PUT, (identity, patient, version, rank, clock.now_us()))

    def prune(self, hours_us: int) -> None:
        """Forget the notes of values that are too old to be kept."""
        self._db.execute("DELETE FROM corrected WHERE noted_us < ?", (clock.now_us() - hours_us,))

    def forget(self, patient: str) -> None:
        """Forget what a patient has."""
        self._db.execute("DELETE FROM corrected WHERE patient = ?", (patient,))

    def move(self, patient: str, into: str) -> None:
        """Let what a patient has be of another number of theirs."""
        self._db.execute("UPDATE corrected SET patient = ? WHERE patient = ?", (into, patient))

    def without_others(self, patient: str, rows: npt.NDArray[np.void], *, generation: str) -> npt.NDArray[np.void]:
        """Return a patient's rows without those of which another patient has a correction.

        Args:
            patient: pseudonym.
            rows: of dtype ROW.
            generation: of the store: changes when notes may have been deleted.
        """
        self._look(generation)
        if not self._known:
            return rows
        identities = rows["id"].view(np.int64) if len(rows) else np.zeros(0, np.int64)
        near = np.flatnonzero(self._marks[identities & _MARKS])
        found = zip(near.tolist(), map(self._known.get, identities[near].tolist()), strict=True)
        others = [i for i, known in found if known is not None and _is_others(known, patient, rows[i])]
        return np.delete(rows, others) if others else rows

    def _look(self, generation: str) -> None:
        if generation != self._generation:
            self._known, self._seen, self._generation = {}, 0, generation
            self._marks[:] = False
        found = self._db.execute(
            "SELECT number, id, patient, version, rank FROM corrected WHERE number > ? ORDER BY number", (self._seen,)
        )
        for number, identity, *correction in found:
            self._seen = number
            self._known[identity] = _Correction(*correction)
            self._marks[identity & _MARKS] = True


def _is_others(known: _Correction, patient: str, row: np.void) -> bool:
    stands = (int(row["version"]), (int(row["stage"]) & 0xFF) // 2)
    return known.patient != patient and (known.version, known.rank) > stands


def _signed(identity: np.uint64) -> int:
    return int(np.uint64(identity).astype(np.int64))
