"""Reads warehouses by ADBC, as streamed Arrow batches; DuckDB and PostgreSQL in the same way."""

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
    # All queries of the load see one snapshot.
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # Times cast to text are the same whatever the server's defaults are.
    "SET DateStyle TO 'ISO, YMD'",
    "SET TimeZone TO 'UTC'",
)
"""Statements at the beginning of a PostgreSQL session."""

SILENCE_SECONDS = 900.0
"""Default of the longest wait for an answer: a query that sorts a large table needs minutes for its first row."""

_IN_MEMORY = ":memory:"
"""DuckDB's name of a database without a file."""


def _search_in(home: Path) -> str:
    """Return the statement that makes DuckDB look in the home for files that a query names."""
    folder = str(home).replace("'", "''")
    return f"SET file_search_path = '{folder}'"


class Warehouse:
    """An open connection that only reads, in one snapshot from its first query on."""

    def __init__(self, connection: Any, name: str, *, silence_seconds: float | None = None) -> None:
        """Use an open connection.

        Args:
            connection: of ADBC.
            name: of the warehouse, for errors.
            silence_seconds: longest wait for the next answer; None: for ever, for a warehouse without a server.
        """
        self._connection, self._name = connection, name
        self._seconds = silence_seconds

    def run(self, *statements: str) -> None:
        """Execute statements that return nothing, and commit.

        Raises:
            Silent: the server does not answer in time.
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
            InputError: a column could be misread: see plain.
            ServiceUnavailable: the warehouse refuses the query. Its message is not shown, because it can quote a value.
            Silent: the server does not answer in time.
        """
        cursor = self._connection.cursor()
        try:
            self._answered(partial(cursor.execute, sql))
            batches = cursor.fetch_record_batch()
            while (batch := self._answered(partial(next, batches, None))) is not None:
                yield plain(batch)
        except Silent:
            cursor = None  # the call still waits in its thread: do not close the cursor under it
            raise
        except (self._connection.Error, pa.ArrowException, OSError) as error:  # OSError: in the middle of the stream
            raise ServiceUnavailable(
                f"Warehouse refuses the query ({type(error).__name__})",
                where=self._name,
                remedy="Run the query in the warehouse by hand to see why.",
            ) from None
        finally:
            if cursor is not None:
                cursor.close()

    def one_text(self, sql: str) -> str:
        """Return the only value of a SELECT, as text.

        Raises:
            ServiceUnavailable: the warehouse refuses the query.
        """
        return str(pa.Table.from_batches(self.read(sql)).column(0)[0].as_py())


def _has_password(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:  # unbalanced brackets: the driver reports what is wrong
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
        SettingsError: the kind is unknown, the address has a password, a reference cannot be resolved, or the extra
            'history' is not installed.
        ServiceUnavailable: the warehouse cannot be opened, or does not answer. The error does not show the address,
            which can contain a password.
    """
    if _has_password(address):  # others can read it on a command line or in a job file
        raise SettingsError(
            "Password stands in the warehouse's address",
            where="warehouse",
            remedy="Keep the address in a variable or a file, and write env:NAME or file:PATH in its place.",
        )
    address = resolve_references({"warehouse": address}, home=home)["warehouse"]
    kind = address.partition(":")[0]
    if kind not in _DRIVERS:
        raise SettingsError(
            "Kind of the warehouse's address is unknown",
            where="warehouse",
            remedy="Use duckdb:PATH, duckdb::memory: or postgresql://…",
        )
    try:
        dbapi = import_module(f"{_DRIVERS[kind]}.dbapi")
    except ImportError:
        raise SettingsError(
            "History lane is not installed",
            where=f"package {_DRIVERS[kind]}",
            remedy="Run in the checkout: pip install '.[history]'",
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
            remedy="Check address, user and password. End other processes that use the same DuckDB file.",
        ) from None
    opened = Warehouse(connection, name, silence_seconds=silence_seconds if server else None)
    try:
        opened.run(*(_SESSION if server else (_search_in(home),) if where == _IN_MEMORY else ()))
        yield opened
    except Silent:
        raise  # without closing the connection, in which a call still waits
    except BaseException:
        connection.close()
        raise
    connection.close()
