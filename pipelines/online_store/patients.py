"""The patients who are on the ward or have values, each with a revision that tells readers what has changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from pipelines.online_store.meta import Meta


class Patients:
    """The table of patients and their revisions."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta) -> None:
        self._db, self._meta = connection, meta

    def revisions(self) -> dict[str, int]:
        """Return the revision of every patient who is on the ward or has values."""
        return self.changed_since(-1)

    def changed_since(self, revision: int) -> dict[str, int]:
        """Return the patients that have changed after a revision, with their own revisions."""
        return dict(self._db.execute("SELECT patient, revision FROM patient WHERE revision > ?", (revision,)))

    def has(self, patient: str) -> bool:
        """Return whether a patient is on the ward, or has measured values."""
        return self._db.execute("SELECT 1 FROM patient WHERE patient = ?", (patient,)).fetchone() is not None

    def touch(self, patients: Sequence[str]) -> None:
        """Give patients a new revision; the store calls it within the transaction that changes them."""
        if not patients:
            return
        revision = int(self._meta.get("revision")) + 1
        self._meta.put("revision", str(revision))
        self._db.executemany("INSERT OR REPLACE INTO patient VALUES (?, ?)", [(p, revision) for p in patients])
