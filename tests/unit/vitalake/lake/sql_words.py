"""Finds the words that queries cannot use as the name of a table or a column unless they stand in quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

_TABLES = (
    "SELECT a FROM {w}",
    "SELECT {w}.a FROM {w} AS {w}",
    "SELECT o.a FROM o JOIN {w} ON o.a = {w}.a",
    "SELECT {w}.a FROM {w} JOIN o USING (a)",
)
_COLUMNS = (
    "SELECT {w} FROM words",
    "SELECT a, max({w}) AS x FROM words GROUP BY a",
    "SELECT words.{w} FROM words WHERE {w} = 1",
    "SELECT count(*) FROM words GROUP BY {w} ORDER BY {w}",
    "SELECT words.a FROM words JOIN words AS other USING ({w})",
)


def words_taken() -> Iterator[str]:
    """Yield the keywords of DuckDB and sqlglot with which one of some plain queries cannot be read as it is meant."""
    found = {word for (word,) in duckdb.sql("SELECT keyword_name FROM duckdb_keywords()").fetchall()}
    found |= {word.lower() for word in DuckDB.Tokenizer.KEYWORDS}
    words = sorted(word for word in found if re.fullmatch("[a-z][a-z0-9_]{0,59}", word))
    with duckdb.connect() as db:
        db.execute("CREATE TABLE o (a INT)")
        columns = ", ".join(f'"{word}" INT' for word in words)
        db.execute(f"CREATE TABLE words (a INT, {columns})")
        for word in words:
            db.execute(f'CREATE TABLE "{word}" (a INT)')
            tried = [(exp.Table, text) for text in _TABLES] + [(exp.Column, text) for text in _COLUMNS]
            if not all(_means(db, word, kind, text.format(w=word)) for kind, text in tried):
                yield word


def _means(db: duckdb.DuckDBPyConnection, word: str, kind: type[exp.Expression], query: str) -> bool:
    """Return whether both engines take the word for the name of a table or a column."""
    try:
        tree = sqlglot.parse_one(query, dialect="duckdb")
        db.execute(query)
    except (sqlglot.errors.SqlglotError, duckdb.Error):
        return False
    named = {found.name for found in tree.find_all(kind)} | {found.name for found in tree.find_all(exp.Identifier)}
    return isinstance(tree, exp.Select) and word in named
