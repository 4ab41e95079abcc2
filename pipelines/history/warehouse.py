"""Warehouses, reached by ADBC: streamed Arrow batches, whatever is behind the address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from pipelines.history.columns import plain
from vitalake.errors import ServiceUnavailable, SettingsError
from vitalake.settings import resolve_references

_DRIVERS = {"duckdb": "adbc_driver_duckdb", "postgresql": "adbc_driver_postgresql"}
_SESSION = (
    # All queries of the load see one moment.
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # Times cast to text are the same whatever the server's defaults are.
    "SET DateStyle TO 'ISO, YMD'",
    "SET TimeZone TO 'UTC'",
)
"""What a session of PostgreSQL begins with."""

_IN_MEMORY = ":memory:"
"""DuckDB's name for no file."""


def _files_of(home: Path) -> str:
    """Return the statement by which files that a query names are looked for in the home."""
    folder = str(home).replace("'", "''")
    return f"SET file_search_path = '{folder}'"


class Warehouse:
    """An open connection; read-only use, in one snapshot from its first query on."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection, self._name = connection, name

    def read(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a SELECT in batches, streamed.

        Raises:
            InputError: a column would be read wrongly: see plain.
            ServiceUnavailable: the warehouse refuses the query. Its text is not passed on: it may quote a value.
        """
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql)
                yield from map(plain, cursor.fetch_record_batch())
        except (self._connection.Error, pa.ArrowException, OSError) as error:  # OSError: midway through the stream
            raise ServiceUnavailable(
                f"Warehouse refuses the query ({type(error).__name__})",
                where=self._name,
                remedy="Try it there by hand.",
            ) from None

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
def open_warehouse(address: str, *, home: Path) -> Iterator[Warehouse]:
    """Open a warehouse.

    Args:
        address: ``duckdb:PATH`` (relative to the home), ``duckdb::memory:`` (no file: its queries read CSV or Parquet
            files, by paths relative to the home), ``postgresql://…``, or a reference to one of them: ``env:NAME`` or
            ``file:PATH``.
        home: the home.

    Raises:
        SettingsError: no such kind, a password in clear, a reference that leads nowhere, or the extra 'history' is not
            installed.
        ServiceUnavailable: it cannot be opened. The address is not echoed: it may hold a password.
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
            remedy="Run: pip install 'vitalake[history]'.",
        ) from None
    within = address.removeprefix("duckdb:")
    name = kind if kind != "duckdb" else within if within == _IN_MEMORY else Path(within).name
    where = address if kind != "duckdb" else within if within == _IN_MEMORY else str(home / within)
    try:
        connection = dbapi.connect(where)
    except dbapi.Error as error:
        raise ServiceUnavailable(
            f"Warehouse cannot be opened ({type(error).__name__})",
            where=name,
            remedy="Check address, user and password; close who else uses an embedded one.",
        ) from None
    with connection:
        statements = _SESSION if kind == "postgresql" else (_files_of(home),) if where == _IN_MEMORY else ()
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.commit()
        yield Warehouse(connection, name)
