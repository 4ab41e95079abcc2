"""Reads warehouses by ADBC, as streamed Arrow batches; every kind (warehouses/) in the same way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from pipelines.history.columns import plain
from pipelines.history.silence import Silent, answered
from pipelines.history.warehouses.base import Reads, Target, WarehouseKind, anything
from pipelines.history.warehouses.registry import OURS, failed, warehouse_kind, where_registered
from vitalake.errors import InputError, ServiceUnavailable, SettingsError, VitaLakeError
from vitalake.settings import has_password, resolve_references

_T = TypeVar("_T")

SILENCE_SECONDS = 900.0
"""Default of the longest wait for an answer: a query that sorts a large table needs minutes for its first row."""


class Warehouse:
    """An open connection that only reads, in one snapshot from its first query on."""

    def __init__(
        self, connection: Any, name: str, *, silence_seconds: float | None = None, reads: Reads = anything
    ) -> None:
        """Use an open connection.

        Args:
            connection: of ADBC.
            name: of the warehouse, for errors.
            silence_seconds: longest wait for the next answer; None: for ever, for a warehouse without a server.
            reads: whether a query only reads.
        """
        self._connection, self._name = connection, name
        self._seconds, self._reads = silence_seconds, reads

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

    def read(self, sql: str, *, known: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a SELECT in batches, streamed.

        Args:
            sql: the SELECT.
            known: names of columns that errors may show: a query can take others from a patient's text.

        Raises:
            InputError: a column could be misread: see plain.
            ServiceUnavailable: the warehouse refuses the query. Its message is not shown, because it can quote a value.
            Silent: the server does not answer in time.
        """
        if not self._reads(sql):
            raise ServiceUnavailable(
                "Warehouse refuses the query (it is not one SELECT, or calls a function that does more than read)",
                where=self._name,
                remedy="Write one SELECT; it may begin with WITH. Quote a column that is named like a statement. "
                "What else the query is to do, do in the warehouse.",
            ) from None
        cursor = self._connection.cursor()
        try:
            self._answered(partial(cursor.execute, sql))
            batches = cursor.fetch_record_batch()
            while (batch := self._answered(partial(next, batches, None))) is not None:
                yield plain(batch, known)
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
        """Return the only value of a SELECT, as text; a job's incarnation is one.

        Raises:
            InputError: it has no row, several rows or columns, or its value is null: no text, or an arbitrary one.
            ServiceUnavailable: the warehouse refuses the query.
        """
        values: list[object] = []
        columns = 1
        for batch in self.read(sql):
            columns = batch.num_columns
            values += batch.column(0).slice(0, 2).to_pylist() if columns == 1 else []
            if columns != 1 or len(values) > 1:
                break
        if len(values) == 1 and values[0] is not None:
            return str(values[0])
        if columns != 1:
            why = "several columns"
        elif not values:
            why = "no row"
        else:
            why = "NULL" if len(values) == 1 else "several rows"
        raise InputError(
            f"Query of one text gives {why}",
            where=f"{self._name}: incarnation",
            remedy="Select one column of one row that is not NULL, such as max(…) or coalesce(…, 'none').",
        )


@contextmanager
def open_warehouse(address: str, *, home: Path, silence_seconds: float = SILENCE_SECONDS) -> Iterator[Warehouse]:
    """Open a warehouse.

    Args:
        address: begins with the scheme of a registered kind: ``duckdb:PATH`` (relative to the home),
            ``duckdb::memory:`` (no file: its queries read CSV or Parquet files, by paths relative to the home),
            ``postgresql://…``, or that of a plug-in. Or a reference to an address: ``env:NAME`` or ``file:PATH``.
        home: the home.
        silence_seconds: longest wait for the next answer of a server.

    Raises:
        SettingsError: the kind is unknown, the address is not valid or has a password, a reference cannot be resolved,
            or the kind's driver is not installed.
        ServiceUnavailable: the warehouse cannot be opened, or does not answer. The error does not show the address,
            which can contain a password.
    """
    if has_password(address):  # others can read it on a command line or in a job file
        raise SettingsError(
            "Password stands in the warehouse's address",
            where="warehouse",
            remedy="Keep the address in a variable or a file, and write env:NAME or file:PATH in its place.",
        )
    address = resolve_references({"warehouse": address}, home=home)["warehouse"]
    kind = warehouse_kind(address)
    dbapi, target = _driver(kind), _target(kind, address, home)
    try:
        connection = kind.connect(dbapi, target.uri)
    except (dbapi.Error, OSError) as error:
        remedy = "Check address, user and password. End other processes that use the same DuckDB file."
        raise _cannot_be_opened(error, target.name, remedy) from None
    except Exception as error:  # the driver's code can raise anything
        raise failed(kind, "connect", error) from None
    opened = Warehouse(
        connection, target.name, silence_seconds=silence_seconds if kind.server else None, reads=kind.reads
    )
    try:
        try:
            opened.run(*target.session)
        except (dbapi.Error, OSError) as error:
            where = f"{target.name}, {where_registered(kind)}"
            remedy = "It refuses what the driver executes first: use another driver, or correct its session."
            raise _cannot_be_opened(error, where, remedy) from None
        yield opened
    except Silent:
        raise  # without closing the connection, in which a call still waits
    except BaseException:
        connection.close()
        raise
    connection.close()


def _driver(kind: WarehouseKind) -> Any:
    """Import and return the DBAPI module of a kind's driver."""
    try:
        return import_module(kind.dbapi)
    except ImportError:
        if kind.scheme in OURS:
            what, remedy = "History lane is not installed", "Run in the checkout: pip install '.[history]'"
        else:
            what, remedy = "Driver of the warehouse is not installed", "Install this package beside vitalake."
        raise SettingsError(what, where=f"package {kind.package}", remedy=remedy) from None


def _target(kind: WarehouseKind, address: str, home: Path) -> Target:
    """Return what an address means; of an error nothing is shown, because its text can quote the address."""
    try:
        target = kind.locate(address, home)
        if not isinstance(target, Target):
            raise TypeError
    except VitaLakeError:
        raise
    except ValueError:
        raise SettingsError(
            "Warehouse's address is not valid", where="warehouse", remedy=f"Write it as {' or '.join(kind.addresses)}"
        ) from None
    except Exception as error:  # the driver's code can raise anything
        raise failed(kind, "locate", error) from None
    return target


def _cannot_be_opened(error: Exception, where: str, remedy: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"Warehouse cannot be opened ({type(error).__name__})", where=where, remedy=remedy)
