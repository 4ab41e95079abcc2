"""DuckDB: a database that is one file, or no file at all: then its queries read CSV and Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.history.warehouses.base import Target, WarehouseKind

IN_MEMORY = ":memory:"
"""DuckDB's name of a database without a file."""


def _search_in(home: Path) -> str:
    """Return the statement that makes DuckDB look in the home for files that a query names."""
    folder = str(home).replace("'", "''")
    return f"SET file_search_path = '{folder}'"


def locate(address: str, home: Path) -> Target:
    """Return the file that ``duckdb:PATH`` names, relative to the home, or the database without a file."""
    path = address.removeprefix("duckdb:")
    if path == IN_MEMORY:
        return Target(IN_MEMORY, IN_MEMORY, (_search_in(home),))
    return Target(str(home / path), Path(path).name)


def connect(dbapi: Any, uri: str) -> Any:
    """Return a connection, whose changes are rolled back when it closes.

    Raises:
        FileNotFoundError: there is no such file; DuckDB would make an empty database of a path that is misspelt.
    """
    if uri != IN_MEMORY and not Path(uri).exists():
        raise FileNotFoundError
    return dbapi.connect(uri)


def reads(query: str) -> bool:
    """Return whether a query is one SELECT: also one that begins with WITH, FROM, VALUES or PIVOT.

    The type of the statement alone does not say it: a PIVOT has the same type as a COPY of one. But only of what reads
    a table can be made.
    """
    import duckdb

    allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
    try:
        (statement,) = duckdb.extract_statements(query)
        (_,) = duckdb.extract_statements(f"CREATE TABLE made AS {query}")  # parsed, and never executed
    except (duckdb.Error, ValueError):  # ValueError: there are several, or none
        return False
    return statement.type in allowed


WAREHOUSE = WarehouseKind(
    scheme="duckdb",
    description="a DuckDB file, or CSV and Parquet files",
    addresses=("duckdb:PATH", "duckdb::memory:"),
    dbapi="adbc_driver_duckdb.dbapi",
    locate=locate,
    connect=connect,
    reads=reads,
)
