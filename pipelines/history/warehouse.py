"""Warehouses, reached by ADBC: streamed Arrow batches, whatever is behind the address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from vitalake.errors import ServiceUnavailable, SettingsError


class Warehouse:
    """An open connection; read-only use."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection, self._name = connection, name

    def read(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a SELECT in batches, streamed.

        Raises:
            ServiceUnavailable: the warehouse refuses the query. Its text is not passed on: it may quote a value.
        """
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql)
                yield from cursor.fetch_record_batch()
        except (self._connection.Error, pa.ArrowException, OSError) as error:  # OSError: midway through the stream
            raise ServiceUnavailable(
                f"Warehouse refuses the query ({type(error).__name__})",
                where=self._name,
                remedy="Try it there by hand.",
            ) from None


@contextmanager
def open_duckdb(path: Path) -> Iterator[Warehouse]:
    """Open the embedded warehouse.

    Raises:
        SettingsError: the extra 'history' is not installed.
        ServiceUnavailable: the file cannot be opened.
    """
    try:
        from adbc_driver_duckdb import dbapi
    except ImportError:
        raise SettingsError(
            "History lane is not installed", where="package duckdb", remedy="Run: pip install 'vitalake[history]'."
        ) from None
    try:
        connection = dbapi.connect(str(path))
    except dbapi.Error as error:
        raise ServiceUnavailable(
            f"Warehouse cannot be opened ({type(error).__name__})", where=path.name, remedy="Close who else uses it."
        ) from None
    with connection:
        yield Warehouse(connection, path.name)
