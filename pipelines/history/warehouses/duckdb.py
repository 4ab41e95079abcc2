"""DuckDB: a database that is one file, or no file at all: then its queries read CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.history.warehouses.base import Target, WarehouseKind

IN_MEMORY = ":memory:"
"""DuckDB's name of a database without a file."""

LOCKED = (
    # Extensions reach the network and other databases, and some run commands. One that a query needs is loaded before.
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    # Some settings write files: logs and profiles contain queries and values. With this they can be set by nothing any
    # more, also not by a function within a view, a macro or a text that ``query`` executes.
    "SET lock_configuration = true",
)
"""The last statements of a session of DuckDB's driver: whatever a query says, it changes no setting."""


def _search_in(home: Path) -> str:
    """Return the statement that makes DuckDB look in the home for files that a query names."""
    folder = str(home).replace("'", "''")
    return f"SET file_search_path = '{folder}'"


def locate(address: str, home: Path) -> Target:
    """Return the file that ``duckdb:PATH`` names, relative to the home, or the database without a file."""
    path = address.removeprefix("duckdb:")
    if path == IN_MEMORY:
        return Target(IN_MEMORY, IN_MEMORY, (_search_in(home), *LOCKED))
    return Target(str(home / path), Path(path).name, LOCKED)


def connect(dbapi: Any, uri: str) -> Any:
    """Return a connection, which opens a file read-only: not even what another process left in its log is written.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if uri == IN_MEMORY:
        return dbapi.connect(uri)
    if not Path(uri).exists():
        raise FileNotFoundError
    from adbc_driver_duckdb import driver_path
    from adbc_driver_manager import AdbcConnection, AdbcDatabase
    from adbc_driver_manager.dbapi import Connection

    # What dbapi.connect does; it takes no option besides the path.
    database = AdbcDatabase(driver=driver_path(), entrypoint="duckdb_adbc_init", path=uri, access_mode="read_only")
    try:
        return Connection(database, AdbcConnection(database))
    except BaseException:
        database.close()
        raise


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
    words, called = _words(query), _called(query)
    return statement.type in allowed and _WRITES.isdisjoint(words) and _not_reading().isdisjoint(called)


_READING = frozenset(
    {
        "generate_series", "glob", "icu_calendar_names", "json_each", "json_tree", "pg_timezone_names", "query_table",
        "range", "repeat", "repeat_row", "sniff_csv", "summary", "unnest",
    }
)  # fmt: skip
"""Table functions that only read. ``query`` is not among them, because it executes a text that is not looked at."""

_READING_FAMILIES = ("duckdb_", "parquet_", "pragma_", "read_")
"""How the names of further table functions that only read begin: catalogue and files."""

_HARMLESS = frozenset({"error", "gen_random_uuid", "random", "setseed", "sleep_ms", "stats", "uuid", "vector_type"})
"""Functions with a side effect, by what DuckDB says, that reaches nothing outside the query …"""

_HARMLESS_FAMILIES = ("current_", "uuidv")
"""… and how the names of further ones begin."""


@cache
def _not_reading() -> frozenset[str]:
    """Return the functions of the installed DuckDB that a query may not call.

    DuckDB says of its other functions whether they have a side effect, but not of table functions: of those, one that
    is not known to read is taken to write. So what a later release adds is refused, until somebody has looked at it.
    """
    import duckdb

    with duckdb.connect(":memory:") as connection:
        functions = connection.execute(
            "SELECT DISTINCT function_name, function_type = 'table' FROM duckdb_functions() "
            "WHERE function_type = 'table' OR has_side_effects"
        ).fetchall()
    known = {True: (_READING, _READING_FAMILIES), False: (_HARMLESS, _HARMLESS_FAMILIES)}
    return frozenset(
        name for name, table in functions if name not in known[table][0] and not name.startswith(known[table][1])
    )


def _words(query: str) -> Iterator[str]:
    """Yield the keywords of a query, in capitals."""
    return (text.upper() for text, kind in _tokens(query) if kind == "keyword")


def _called(query: str) -> Iterator[str]:
    """Yield what stands before an opening bracket in a query, in small letters and without quotes."""
    outside_comments = (text for text, kind in _tokens(query) if kind != "comment")
    return (name.strip('"').lower() for name, after in pairwise(outside_comments) if after.startswith("("))


def _tokens(query: str) -> Iterator[tuple[str, str]]:
    """Yield the tokens of a query with their kinds."""
    import duckdb

    # The parser takes Unicode's spaces, also those without a width, as spaces; the tokenizer, as part of a name. But a
    # sign of the kind in the tag of a text ($€$) is none. So both forms are read, and a word of either counts.
    spaced = "".join(char if char.isascii() or char.isalnum() else " " for char in query)
    for form in (query, spaced):
        text, tokens = form.encode(), duckdb.tokenize(form)  # its places are bytes
        ends = [place for place, _ in tokens[1:]] + [len(text)]
        for (begin, kind), end in zip(tokens, ends, strict=True):
            yield text[begin:end].decode(errors="replace").strip(), kind.name


WAREHOUSE = WarehouseKind(
    scheme="duckdb",
    description="a DuckDB file, or CSV and Parquet files",
    addresses=("duckdb:PATH", "duckdb::memory:"),
    dbapi="adbc_driver_duckdb.dbapi",
    locate=locate,
    connect=connect,
    reads=reads,
)
