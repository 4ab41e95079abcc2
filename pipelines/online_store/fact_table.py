"""The table ``fact``: what is known of a patient beside measured values, each fact sealed on its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from pipelines.online_store.facts import KINDS, Fact
from pipelines.online_store.forgotten import Forgotten
from pipelines.online_store.schema import sealing_context
from vitalake.sealing import Seals

_Kind = TypeVar("_Kind", bound=Fact)

FactRow = tuple[str, str, str, int, int, bytes]
"""A row of the table: patient, kind, key, version, end of validity, sealed fact."""


class FactTable:
    """The table of facts; the store calls its writing methods within a transaction."""

    def __init__(self, connection: sqlite3.Connection, sealer: Seals, forgotten: Forgotten) -> None:
        self._db, self._sealer, self._forgotten = connection, sealer, forgotten

    def of(self, patient: str, kind: type[_Kind]) -> dict[str, _Kind]:
        """Return the facts of one kind of a patient by their keys."""
        return {key: fact for key, (_, fact) in self.versions(patient, kind).items()}

    def versions(self, patient: str, kind: type[_Kind]) -> dict[str, tuple[int, _Kind]]:
        """Return the facts of one kind of a patient by their keys, each with its version."""
        rows = self._db.execute(
            "SELECT key, version, sealed FROM fact WHERE patient = ? AND kind = ?", (patient, KINDS[kind])
        ).fetchall()
        return {key: (version, self._opened(patient, kind, key, sealed)) for key, version, sealed in rows}

    def get(self, patient: str, key: str, kind: type[_Kind]) -> tuple[int, _Kind] | None:
        """Return one fact with its version; None: there is none under this key."""
        row = self._db.execute(
            "SELECT version, sealed FROM fact WHERE (patient, kind, key) = (?, ?, ?)", (patient, KINDS[kind], key)
        ).fetchone()
        return None if row is None else (row[0], self._opened(patient, kind, key, row[1]))

    def has(self, patient: str, key: str, version: int, kind: type) -> bool:
        """Return whether a fact is stored in this version."""
        query = "SELECT 1 FROM fact WHERE (patient, kind, key, version) = (?, ?, ?, ?)"
        return self._db.execute(query, (patient, KINDS[kind], key, version)).fetchone() is not None

    def ends(self, patient: str) -> dict[tuple[str, str], int]:
        """Return the end of validity of each fact of a patient, by the name of its kind and its key."""
        rows = self._db.execute("SELECT kind, key, until_us FROM fact WHERE patient = ?", (patient,))
        return {(kind, key): end for kind, key, end in rows}

    def patients_with(self, kind: type) -> list[str]:
        """Return the patients who have a fact of this kind."""
        rows = self._db.execute("SELECT DISTINCT patient FROM fact WHERE kind = ?", (KINDS[kind],)).fetchall()
        return [patient for (patient,) in rows]

    def _opened(self, patient: str, kind: type[_Kind], key: str, sealed: bytes) -> _Kind:
        opened = self._sealer.open(sealed, context=sealing_context(patient, KINDS[kind], key))
        return msgspec.json.decode(opened, type=kind)

    def row(self, patient: str, key: str, version: int, end: int, fact: Fact) -> FactRow:
        """Return a fact as a row of the table, sealed."""
        kind = KINDS[type(fact)]
        sealed = self._sealer.seal(msgspec.json.encode(fact), context=sealing_context(patient, kind, key))
        return patient, kind, key, version, end, sealed

    def put(self, rows: list[FactRow]) -> list[FactRow]:
        """Write rows of facts, except those of forgotten patients; return the rows that were written.

        An older version does not replace a newer one.
        """
        forgotten = self._forgotten.among({row[0] for row in rows})
        rows = [row for row in rows if row[0] not in forgotten]
        self._db.executemany(
            "INSERT INTO fact VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (patient, kind, key) DO UPDATE SET "
            "version = excluded.version, until_us = excluded.until_us, sealed = excluded.sealed "
            "WHERE excluded.version >= version",
            rows,
        )
        return rows

    def delete(self, patient: str, kind: type, keys: Iterable[str]) -> None:
        """Delete facts of one kind of a patient."""
        rows = [(patient, KINDS[kind], key) for key in keys]
        self._db.executemany("DELETE FROM fact WHERE (patient, kind, key) = (?, ?, ?)", rows)
