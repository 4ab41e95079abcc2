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
"""Of the advisory lock: "vitalake". All that writes shares it; erasures and rotations take it alone."""

_CONNECTION = {
    "application_name": "vitalake vault",
    "target_session_attrs": "read-write",  # of several hosts the one that is not a standby
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "tcp_user_timeout": "10000",  # milliseconds: a host that vanished is noticed
}
_IDLE_SECONDS = 5.0
_SESSION = """
SET default_transaction_isolation = 'read committed';
SET lock_timeout = '30s';
SET synchronous_commit = 'on'
"""
_TYPES = {
    found[1]: found[2].replace("BLOB", "bytea").replace("INTEGER", "bigint")
    for found in re.finditer(r"^ {4}(\w+) (BLOB|INTEGER|TEXT)", TABLES, re.MULTILINE)
}
"""Of a column, by its name: none stands for two types."""
_TABLES = ("patient", "former", "pending", "hold", "vault_key")


class PostgresTransaction:
    """Statements that hold together."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; return its rows."""
        return _run(self._connection, sql, parameters)

    def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert the rows whose key is not there yet; as arrays, which is four times as fast as row by row."""
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

    def share(self) -> None:
        """Keep who calls ``alone`` out until the end."""
        self.run("SELECT pg_advisory_xact_lock_shared(?)", (_LOCK,))

    def alone(self) -> None:
        """Keep everybody out who shares or wants to be alone."""
        self.run("SELECT pg_advisory_xact_lock(?)", (_LOCK,))


class PostgresStore:
    """A vault's database; see Store. Connects at first use, and anew after a connection was lost."""

    def __init__(self, address: str) -> None:
        """Connect, and make what is missing.

        Args:
            address: ``postgresql://…``; of several hosts the one that takes writes is used.

        Raises:
            SettingsError: it is no address.
            ServiceUnavailable: it cannot be reached. The address is not echoed: it may hold a password.
        """
        try:
            self._options: dict[str, Any] = {**_CONNECTION, **conninfo_to_dict(address)}
        except psycopg.Error:
            raise SettingsError(
                "Vault's address is none", where="settings.vault", remedy="Use postgresql://user@host/database."
            ) from None
        self.connections, self._used = 0, 0.0
        self._open: psycopg.Connection[Row] | None = None
        if self.read("SELECT to_regclass('vault') IS NULL OR to_regclass('former') IS NULL") == [(True,)]:
            tables = TABLES.replace("BLOB", "BYTEA").replace("INTEGER", "BIGINT")
            with self._connected() as connection, connection.transaction():
                PostgresTransaction(connection).alone()  # two that make a table at once get in each other's way
                connection.execute(tables.encode())

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of one query."""
        with self._connected() as connection:
            return _run(connection, sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        """Give statements of which all are committed, or none."""
        with self._connected() as connection, connection.transaction():
            yield PostgresTransaction(connection)

    def scrub(self, needles: Sequence[bytes]) -> None:
        """Write the tables anew: what was deleted would stay in their files. The server's own log is out of reach.

        Raises:
            PrivacyError: the user does not own the tables.
        """
        with self._connected() as connection:
            for table in _TABLES:
                before = _run(connection, "SELECT pg_relation_filenode(?)", (table,))
                connection.execute(f"VACUUM (FULL) {table}".encode())
                # Who must not, is only warned.
                if _run(connection, "SELECT pg_relation_filenode(?)", (table,)) == before:
                    raise PrivacyError(
                        "What was destroyed may still lie in the vault's files",
                        where=f"PostgreSQL, table {table}",
                        remedy="Erase and rotate as the user who owns the vault's tables; run it again as that one.",
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
                remedy="Check that the server runs and takes writes, and the user's password and rights.",
            ) from None

    def _try_idle(self) -> None:
        """Give a connection up that was lost while nobody used it: its loss is nothing to tell anybody."""
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
