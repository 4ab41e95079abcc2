"""Small transactional files: SQLite in WAL mode, synced at every commit, for their owner's eyes only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitalake.errors import ServiceUnavailable

BUSY_SECONDS = 30.0


class Database:
    """An open file; used by one thread at a time, by any number of processes.

    Attributes:
        connection: for reading; in autocommit.
    """

    def __init__(self, path: Path, *, tables: str, name: str) -> None:
        """Open the file, or make it.

        Args:
            path: the file; its folder exists.
            tables: statements that make what is missing.
            name: in errors, such as ``Vault``.

        Raises:
            ServiceUnavailable: the file cannot be opened, or is none.
        """
        self._name, self._where = name, path.name
        try:
            path.touch(mode=0o600)
            self.connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(tables)
        except (sqlite3.Error, OSError) as error:
            raise self._refused(error) from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, nobody else writing; all that the block does is committed, or none of it.

        Raises:
            ServiceUnavailable: the file cannot be written.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def close(self) -> None:
        """Close it."""
        self.connection.close()

    def _refused(self, error: Exception) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"{self._name} refuses ({type(error).__name__})",
            where=self._where,
            remedy="Check its disk and permissions.",
        )
