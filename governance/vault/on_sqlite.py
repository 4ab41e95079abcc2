"""The vault in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from governance.vault.store import Row
from governance.vault.tables import TABLES
from vitalake.sqlite import Database


class SqliteTransaction:
    """An open transaction. SQLite lets one process write at a time, so shared and exclusive locks are the same."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; return its rows."""
        return self._connection.execute(*_expanded(sql, parameters)).fetchall()

    def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert the rows whose key does not exist yet."""
        if rows:
            one = f"({', '.join('?' * len(columns))})"
            self._connection.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 - our own names
                f"VALUES {', '.join([one] * len(rows))} ON CONFLICT DO NOTHING",
                [value for row in rows for value in row],
            )

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement with each of the rows."""
        self._connection.executemany(sql, rows)

    def lock_shared(self) -> None:
        """Do nothing: BEGIN IMMEDIATE has taken the only write lock."""

    def lock_exclusively(self) -> None:
        """Do nothing: BEGIN IMMEDIATE has taken the only write lock."""


REPAIR = (
    "Nothing was read from it or written. Stop every program that uses the home, keep the file, and restore it from "
    "its newest back-up; see docs/how-to/damage.md."
)


class SqliteStore:
    """A vault in a SQLite file; see Store."""

    connections = 1

    def __init__(self, path: Path) -> None:
        """Open the file, or create it, readable by its owner only.

        Raises:
            ServiceUnavailable: the file cannot be opened, or is not an SQLite database.
        """
        self._database = Database(path, tables=TABLES, name="Vault", repair=REPAIR, secure_delete=True)

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of one query."""
        return self._database.read(*_expanded(sql, parameters))

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        """Open a transaction: all of its statements are committed, or none."""
        with self._database.transaction() as connection:
            yield SqliteTransaction(connection)

    def scrub(self, needles: Sequence[bytes]) -> None:
        """Remove deleted bytes from the file."""
        self._database.scrub(needles)

    def close(self) -> None:
        """Close it."""
        self._database.close()


def _expanded(sql: str, parameters: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    if parameters and isinstance(parameters[0], list):
        (listed,) = parameters
        return sql.replace("IN ?", f"IN ({', '.join('?' * len(listed))})"), listed
    return sql, parameters
