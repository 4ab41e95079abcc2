"""DuckDB: a database that is one file, or no file at all: then its queries read CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
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


_WRITES = frozenset(
    {"ATTACH", "COPY", "DELETE", "DETACH", "EXPORT", "IMPORT", "INSERT", "INSTALL", "MERGE", "TRUNCATE", "UPDATE"}
)
"""Words that begin a statement which writes. A WITH may contain one; the whole statement is a SELECT all the same."""


def reads(query: str) -> bool:
    """Return whether a query is one SELECT: also one that begins with WITH, FROM, VALUES or PIVOT.

    The type of the statement alone does not say it: a PIVOT has the same type as a COPY of one, but only of what reads
    a table can be made; and ``WITH x AS (COPY …)`` is a SELECT. So a word of _WRITES is refused wherever it stands
    outside texts, comments and quoted names, also as the name of a column.
    """
    import duckdb

    allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
    try:
        (statement,) = duckdb.extract_statements(query)
        (_,) = duckdb.extract_statements(f"CREATE TABLE made AS {query}")  # parsed, and never executed
    except (duckdb.Error, ValueError):  # ValueError: there are several, or none
        return False
    return statement.type in allowed and _WRITES.isdisjoint(_words(query))


def _words(query: str) -> Iterator[str]:
    """Yield the keywords of a query, in capitals."""
    import duckdb

    # The parser takes Unicode's spaces, also those without a width, as spaces; the tokenizer, as part of a name. But a
    # sign of the kind in the tag of a text ($€$) is none. So both forms are read, and a word of either counts.
    spaced = "".join(char if char.isascii() or char.isalnum() else " " for char in query)
    for form in (query, spaced):
        text, tokens = form.encode(), duckdb.tokenize(form)  # its places are bytes
        ends = [place for place, _ in tokens[1:]] + [len(text)]
        for (begin, kind), end in zip(tokens, ends, strict=True):
            if kind == duckdb.token_type.keyword:
                yield text[begin:end].decode(errors="replace").strip().upper()


WAREHOUSE = WarehouseKind(
    scheme="duckdb",
    description="a DuckDB file, or CSV and Parquet files",
    addresses=("duckdb:PATH", "duckdb::memory:"),
    dbapi="adbc_driver_duckdb.dbapi",
    locate=locate,
    connect=connect,
    reads=reads,
)
