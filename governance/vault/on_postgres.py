"""The vault in PostgreSQL, for lanes and servers on more than one machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from governance.vault.store import Row
from governance.vault.tables import TABLES
from vitalake.errors import PrivacyError, ServiceUnavailable, SettingsError

_LOCK = 0x76697461_6C616B65
"""Of the advisory lock: "vitalake" in ASCII. Writers hold it shared; erasures and rotations hold it exclusively."""

_CONNECTION = {
    "application_name": "vitalake vault",
    "target_session_attrs": "read-write",  # of several hosts, use the primary
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "tcp_user_timeout": "10000",  # milliseconds, after which a vanished host is noticed
}
_IDLE_SECONDS = 5.0
"""A connection unused for this long is tried before it is used: a server that restarted is then no error."""
_SESSION = """
SET default_transaction_isolation = 'read committed';
SET lock_timeout = '30s';
SET synchronous_commit = 'on'
"""
_TYPES = {
    found[1]: found[2].replace("BLOB", "bytea").replace("INTEGER", "bigint")
    for found in re.finditer(r"^ {4}(\w+) (BLOB|INTEGER|TEXT)", TABLES, re.MULTILINE)
}
"""The PostgreSQL type of each column, by name: no two tables use one column name with different types."""
_TABLES = ("patient", "former", "pending", "hold", "vault_key")


class PostgresTransaction:
    """An open transaction."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; return its rows."""
        return _run(self._connection, sql, parameters)

    def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert the rows whose key does not exist yet; as arrays, which is four times as fast as row by row."""
        if rows:
            arrays = ", ".join(f"%b::{_TYPES[column]}[]" for column in columns)
            self._connection.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 - our own names
                f"SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING".encode(),
                [list(column) for column in zip(*rows, strict=True)],
            )

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement with each of the rows."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_dialect(sql), list(rows))

    def lock_shared(self) -> None:
        """Take the lock shared, until the transaction ends; see Transaction."""
        self.run("SELECT pg_advisory_xact_lock_shared(?)", (_LOCK,))

    def lock_exclusively(self) -> None:
        """Take the lock exclusively, until the transaction ends; see Transaction."""
        self.run("SELECT pg_advisory_xact_lock(?)", (_LOCK,))


class PostgresStore:
    """A vault in PostgreSQL; see Store. After a lost connection, the next call connects again."""

    def __init__(self, address: str) -> None:
        """Connect, and create the tables that are missing.

        Args:
            address: ``postgresql://…``; of several hosts, the one that accepts writes is used.

        Raises:
            SettingsError: the address is not a PostgreSQL URL.
            ServiceUnavailable: the server cannot be reached. The error does not repeat the address, which may hold a
                password.
        """
        try:
            self._options: dict[str, Any] = {**_CONNECTION, **conninfo_to_dict(address)}
        except psycopg.Error:
            raise SettingsError(
                "The vault's address is not a PostgreSQL URL",
                where="settings.vault",
                remedy="Use postgresql://user@host/database.",
            ) from None
        self.connections, self._used = 0, 0.0
        self._open: psycopg.Connection[Row] | None = None
        if self.read("SELECT to_regclass('vault') IS NULL OR to_regclass('former') IS NULL") == [(True,)]:
            tables = TABLES.replace("BLOB", "BYTEA").replace("INTEGER", "BIGINT")
            with self._connected() as connection, connection.transaction():
                PostgresTransaction(connection).lock_exclusively()  # two processes that create one table at once fail
                connection.execute(tables.encode())

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of one query."""
        with self._connected() as connection:
            return _run(connection, sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        """Open a transaction: all of its statements are committed, or none."""
        with self._connected() as connection, connection.transaction():
            yield PostgresTransaction(connection)

    def scrub(self, needles: Sequence[bytes]) -> None:
        """Rewrite the tables, for deleted rows would stay in their files. The server's write-ahead log is not cleaned.

        Raises:
            PrivacyError: the user does not own the tables.
        """
        with self._connected() as connection:
            for table in _TABLES:
                before = _run(connection, "SELECT pg_relation_filenode(?)", (table,))
                connection.execute(f"VACUUM (FULL) {table}".encode())
                # VACUUM only warns a user who may not rewrite the table; the file then stays the same.
                if _run(connection, "SELECT pg_relation_filenode(?)", (table,)) == before:
                    raise PrivacyError(
                        "Destroyed keys and values may still be in the vault's files",
                        where=f"PostgreSQL, table {table}",
                        remedy="Run the command again as the database user who owns the vault's tables: only that user "
                        "can rewrite them.",
                    )

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()
        self._open = None

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Row]]:
        self._try_idle()
        try:
            if self._open is None:
                self._open = psycopg.connect(**self._options, autocommit=True, prepare_threshold=None)
                self.connections += 1
                self._open.execute(_SESSION)
            yield self._open
        except psycopg.Error as error:
            if self._open is not None and (self._open.closed or self._open.broken):
                self.close()
            raise ServiceUnavailable(
                f"Vault refuses ({type(error).__name__})",
                where="PostgreSQL",
                remedy="Check that the server runs and accepts writes, and check the user's password and rights.",
            ) from None

    def _try_idle(self) -> None:
        """Close a connection that was lost while it was idle, so that the next use connects again without an error."""
        now = time.monotonic()
        if self._open is not None and now - self._used > _IDLE_SECONDS:
            try:
                self._open.execute("SELECT 1")
            except psycopg.Error:
                self.close()
        self._used = now


def _run(connection: psycopg.Connection[Row], sql: str, parameters: Sequence[Any]) -> list[Row]:
    cursor = connection.execute(_dialect(sql), parameters)
    return cursor.fetchall() if cursor.description else []


def _dialect(sql: str) -> bytes:
    return sql.replace("IN ?", "= ANY(%b::bytea[])").replace("?", "%s").encode()
