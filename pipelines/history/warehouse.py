"""Warehouses, reached by ADBC: streamed Arrow batches, whatever is behind the address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from pipelines.history.columns import plain
from pipelines.history.silence import Silent, answered, with_keepalives
from vitalake.errors import ServiceUnavailable, SettingsError
from vitalake.settings import resolve_references

_T = TypeVar("_T")

_DRIVERS = {"duckdb": "adbc_driver_duckdb", "postgresql": "adbc_driver_postgresql"}
_SESSION = (
    # All queries of the load see one moment.
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # Times cast to text are the same whatever the server's defaults are.
    "SET DateStyle TO 'ISO, YMD'",
    "SET TimeZone TO 'UTC'",
)
"""What a session of PostgreSQL begins with."""

SILENCE_SECONDS = 900.0
"""A query that sorts a large table may think for minutes before its first row comes."""

_IN_MEMORY = ":memory:"
"""DuckDB's name for no file."""


def _files_of(home: Path) -> str:
    """Return the statement by which files that a query names are looked for in the home."""
    folder = str(home).replace("'", "''")
    return f"SET file_search_path = '{folder}'"


class Warehouse:
    """An open connection; read-only use, in one snapshot from its first query on."""

    def __init__(self, connection: Any, name: str, *, silence_seconds: float | None = None) -> None:
        """Take a connection.

        Args:
            connection: of ADBC.
            name: of the warehouse, in errors.
            silence_seconds: longest wait for its next answer; None: for ever, where there is no server.
        """
        self._connection, self._name = connection, name
        self._seconds = silence_seconds

    def run(self, *statements: str) -> None:
        """Execute statements that return nothing, and commit.

        Raises:
            Silent: it does not answer.
        """
        cursor = self._connection.cursor()
        for statement in statements:
            self._answered(partial(cursor.execute, statement))
        cursor.close()
        self._answered(self._connection.commit)

    def _answered(self, call: Callable[[], _T]) -> _T:
        return answered(call, seconds=self._seconds, where=self._name)

    def read(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a SELECT in batches, streamed.

        Raises:
            InputError: a column would be read wrongly: see plain.
            ServiceUnavailable: the warehouse refuses the query. Its text is not passed on: it may quote a value.
            Silent: it does not answer.
        """
        cursor = self._connection.cursor()
        try:
            self._answered(partial(cursor.execute, sql))
            batches = cursor.fetch_record_batch()
            while (batch := self._answered(partial(next, batches, None))) is not None:
                yield plain(batch)
        except Silent:
            cursor = None  # its call waits on
            raise
        except (self._connection.Error, pa.ArrowException, OSError) as error:  # OSError: midway through the stream
            raise ServiceUnavailable(
                f"Warehouse refuses the query ({type(error).__name__})",
                where=self._name,
                remedy="Try it there by hand.",
            ) from None
        finally:
            if cursor is not None:
                cursor.close()

    def one_text(self, sql: str) -> str:
        """Return the one value of a SELECT, as text.

        Raises:
            ServiceUnavailable: the warehouse refuses the query.
        """
        return str(pa.Table.from_batches(self.read(sql)).column(0)[0].as_py())


def _has_password(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that do not match: the driver says what is wrong
        return "@" in address
    return bool(parts.password) or "password" in parse_qs(parts.query)


@contextmanager
def open_warehouse(address: str, *, home: Path, silence_seconds: float = SILENCE_SECONDS) -> Iterator[Warehouse]:
    """Open a warehouse.

    Args:
        address: ``duckdb:PATH`` (relative to the home), ``duckdb::memory:`` (no file: its queries read CSV or Parquet
            files, by paths relative to the home), ``postgresql://…``, or a reference to one of them: ``env:NAME`` or
            ``file:PATH``.
        home: the home.
        silence_seconds: longest wait for the next answer of a server.

    Raises:
        SettingsError: no such kind, a password in clear, a reference that leads nowhere, or the extra 'history' is not
            installed.
        ServiceUnavailable: it cannot be opened, or does not answer. The address is not echoed: it may hold a password.
    """
    if _has_password(address):  # on a command line or in a job file others can read it
        raise SettingsError(
            "Password stands in the warehouse's address",
            where="warehouse",
            remedy="Secrets go by reference: write env:NAME or file:PATH in its place.",
        )
    address = resolve_references({"warehouse": address}, home=home)["warehouse"]
    kind = address.partition(":")[0]
    if kind not in _DRIVERS:
        raise SettingsError(
            "Warehouse's address is of no known kind",
            where="warehouse",
            remedy="Use duckdb:PATH, duckdb::memory: or postgresql://…",
        )
    try:
        dbapi = import_module(f"{_DRIVERS[kind]}.dbapi")
    except ImportError:
        raise SettingsError(
            "History lane is not installed",
            where=f"package {_DRIVERS[kind]}",
            remedy="In the checkout run: pip install '.[history]'.",
        ) from None
    within = address.removeprefix("duckdb:")
    name = kind if kind != "duckdb" else within if within == _IN_MEMORY else Path(within).name
    where = address if kind != "duckdb" else within if within == _IN_MEMORY else str(home / within)
    server = kind == "postgresql"
    try:
        connection = dbapi.connect(with_keepalives(where) if server else where)
    except dbapi.Error as error:
        raise ServiceUnavailable(
            f"Warehouse cannot be opened ({type(error).__name__})",
            where=name,
            remedy="Check address, user and password; close who else uses an embedded one.",
        ) from None
    opened = Warehouse(connection, name, silence_seconds=silence_seconds if server else None)
    try:
        opened.run(*(_SESSION if server else (_files_of(home),) if where == _IN_MEMORY else ()))
        yield opened
    except Silent:
        raise  # and leave the connection to the call that waits in it
    except BaseException:
        connection.close()
        raise
    connection.close()
