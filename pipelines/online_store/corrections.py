"""Notes which patient a corrected value belongs to, because a correction can name another patient than the original.

The store reads one patient's values without looking at those of others. So it keeps a table of corrections by the
value's id. A row that is older than a correction held by another patient is left out, whichever of them came first.
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
"""From this stage on a row corrects an earlier row, or takes it back."""

_MARKS = 0xFFFFF
"""The bits of an id that index ``_marks``, a table of bits that excludes most values: looking each value up among the
notes would take as long as computing a score."""

_PUT = """
INSERT INTO corrected (id, patient, version, rank, noted_us) VALUES (?, ?, ?, ?, ?)
"""


class _Correction(NamedTuple):
    patient: str
    version: int
    rank: int


class Corrections:
    """The table of corrections, with a cache in memory; the store calls its writing methods within a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._cached: dict[int, _Correction] = {}
        self._marks = np.zeros(_MARKS + 1, np.bool_)
        self._seen = 0
        self._generation = ""

    def note(self, values: Values) -> None:
        """Note the patient of each value that corrects or takes back another one.

        Rows that attribution wrote only to withdraw a value from a patient are left out.
        """
        rows = values.rows
        withdrawn = (rows["attribution"] > 0) & (rows["attribution"] % 2 == 0)
        chosen = np.flatnonzero(((rows["stage"] & 0xFF) // 2 >= _RANK) & ~withdrawn)
        for i in chosen.tolist():
            identity, version = _signed(rows["id"][i]), int(rows["version"][i])
            rank = (int(rows["stage"][i]) & 0xFF) // 2
            before = self._db.execute("SELECT version, rank FROM corrected WHERE id = ?", (identity,)).fetchone()
            if before is None or (version, rank) >= before:
                self._db.execute("DELETE FROM corrected WHERE id = ?", (identity,))
                patient = values.patients[values.patient[i]]
                self._db.execute(_PUT, (identity, patient, version, rank, clock.now_us()))

    def prune(self, hours_us: int) -> None:
        """Delete notes that are older than the hours the store keeps."""
        self._db.execute("DELETE FROM corrected WHERE noted_us < ?", (clock.now_us() - hours_us,))

    def forget(self, patient: str) -> None:
        """Delete the notes of a patient."""
        self._db.execute("DELETE FROM corrected WHERE patient = ?", (patient,))

    def move(self, patient: str, into: str) -> None:
        """Move a patient's notes to the number that the patient was merged into."""
        self._db.execute("UPDATE corrected SET patient = ? WHERE patient = ?", (into, patient))

    def without_others(self, patient: str, rows: npt.NDArray[np.void], *, generation: str) -> npt.NDArray[np.void]:
        """Return a patient's rows without those that a correction has given to another patient.

        Args:
            patient: pseudonym.
            rows: of dtype ROW.
            generation: the store's generation; when it changes, notes may have been deleted, and the cache is read
                again.
        """
        self._refresh(generation)
        if not self._cached:
            return rows
        identities = rows["id"].view(np.int64) if len(rows) else np.zeros(0, np.int64)
        near = np.flatnonzero(self._marks[identities & _MARKS])
        candidates = zip(near.tolist(), map(self._cached.get, identities[near].tolist()), strict=True)
        superseded = [
            i for i, correction in candidates if correction is not None and _supersedes(correction, patient, rows[i])
        ]
        return np.delete(rows, superseded) if superseded else rows

    def _refresh(self, generation: str) -> None:
        if generation != self._generation:
            self._cached, self._seen, self._generation = {}, 0, generation
            self._marks[:] = False
        new = self._db.execute(
            "SELECT number, id, patient, version, rank FROM corrected WHERE number > ? ORDER BY number", (self._seen,)
        )
        for number, identity, *correction in new:
            self._seen = number
            self._cached[identity] = _Correction(*correction)
            self._marks[identity & _MARKS] = True


def _supersedes(correction: _Correction, patient: str, row: np.void) -> bool:
    """Return whether a correction of another patient is newer than a row of this patient."""
    row_rank = (int(row["version"]), (int(row["stage"]) & 0xFF) // 2)
    return correction.patient != patient and (correction.version, correction.rank) > row_rank


def _signed(identity: np.uint64) -> int:
    # SQLite has signed 64-bit integers only.
    return int(np.uint64(identity).astype(np.int64))
