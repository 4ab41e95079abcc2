"""Checks the text of a query against the allow-list, and writes new SQL from the checked tree for DuckDB to run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

from governance.query import allowed
from governance.query.errors import QueryRefused
from governance.query.relations import as_known_at_name, versions_name
from vitalake.logs import mute

mute("sqlglot")  # it logs what it cannot parse, with the literals

_NAME = re.compile(allowed.NAME)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_CTE = "cte__"
"""The prefix of the names that common table expressions get."""

_REMEDY = "Write one SELECT over the datasets; docs/how-to/sql-and-audit.md says what it may use."

_OPENING = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE)
_CLOSING = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END)


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was checked.

    Attributes:
        sql: generated from the checked tree.
        datasets: the datasets that it reads, sorted.
        digest: of the query without its literals: the same query about another patient has the same digest.
        names: every name in it, in lower case, columns among them.
        everything: whether it may read columns that it does not name.
        current: the datasets of which it reads the current rows, those as known at a moment among them.
    """

    sql: str
    datasets: tuple[str, ...]
    digest: str
    names: frozenset[str] = frozenset()
    everything: bool = False
    current: frozenset[str] = frozenset()


def check(text: str, datasets: Collection[str]) -> Query:
    """Return a query that is safe to run.

    Args:
        text: the SQL that a person wrote.
        datasets: names that can be read; each also as ``<name>_versions`` and ``<name>_as_known_at(moment)``.

    Raises:
        QueryRefused: it is not a query, or uses something that is not on the list. The error shows no value of it.
    """
    relations = {name: name for name in datasets} | {versions_name(name): name for name in datasets}
    functions = {as_known_at_name(name): name for name in datasets}
    try:
        tree = _parse(text)
        _check_nodes(tree)
        used = _resolve(tree, relations) | _resolve_functions(tree, functions)
        sql = _generate(tree)
        # The generated SQL must parse to the same checked tree: this catches flaws of sqlglot's parser or generator.
        reparsed = _parse(sql)
        _check_nodes(reparsed)
        if _generate(reparsed) != sql:
            raise _refused("form")
        read = tuple(sorted({(relations | functions)[name] for name in used}))
        names = frozenset(name.name.lower() for name in tree.find_all(exp.Identifier))
        versions = set(map(versions_name, datasets))
        current = frozenset((relations | functions)[name] for name in used - versions)
        return Query(sql, read, _digest(tree), names, _reads_everything(tree), current)
    except (SqlglotError, RecursionError, ValueError):
        raise _refused("form") from None


def _refused(what: str, remedy: str = _REMEDY) -> QueryRefused:
    return QueryRefused(f"Query is refused ({what})", where="vitalake sql", remedy=remedy)


def _parse(text: str) -> exp.Expr:
    if len(text) > allowed.MOST_CHARACTERS or _CONTROL.search(text):
        raise _refused("length or characters")
    depth, tokens = 0, sqlglot.tokenize(text, read="duckdb")
    for token in tokens:
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        if depth > allowed.MOST_DEPTH:
            raise _refused("depth")
    if len(tokens) > allowed.MOST_TOKENS:
        raise _refused("length or characters")
    statements = [tree for tree in sqlglot.parse(text, read="duckdb") if tree is not None]
    if len(statements) != 1 or not isinstance(statements[0], allowed.STATEMENTS):
        raise _refused("not one SELECT")
    return statements[0]


def _check_nodes(tree: exp.Expr) -> None:
    """Refuse a query with a node, a word or a type that is not on the list."""
    for node in tree.walk():
        if type(node) is exp.Anonymous:
            if not _is_table(node) and str(node.this).lower() not in allowed.PLAIN_FUNCTIONS:
                raise _refused("function")
        elif type(node) not in allowed.NODES:
            raise _refused(f"{type(node).__name__} is not on the list")
        for name, value in node.args.items():
            for part in value if isinstance(value, list) else [value]:
                _check_part(node, name, part)


def _is_table(node: exp.Expr) -> bool:
    """Return whether a function stands in the place of a table; ``_resolve_functions`` checks which one it is."""
    return isinstance(node.parent, exp.Table) and node.arg_key == "this"


def _check_part(node: exp.Expr, name: str, part: Any) -> None:
    if part is None or isinstance(part, (bool, exp.Expr)) or isinstance(node, (exp.Literal, exp.Anonymous)):
        if part is True and name == "recursive":
            raise _refused("recursion")
        return
    if isinstance(node, exp.Identifier):
        if _NAME.fullmatch(str(part)):
            return
        raise _refused("name")
    if isinstance(part, exp.DType):
        if part in allowed.TYPES:
            return
        raise _refused("type")
    if not isinstance(part, str) or part.upper() not in allowed.WORDS:
        raise _refused("word")


def _resolve(tree: exp.Expr, relations: Collection[str]) -> set[str]:
    """Rename every common table expression (CTE), and return the relations that are read.

    A name that means a CTE anywhere in the query is replaced everywhere, so that out of the CTE's scope it is unknown
    and never means one of DuckDB's own tables.
    """
    ctes: dict[str, str] = {}
    for cte in tree.find_all(exp.CTE):
        name = cte.alias.lower()
        if name in relations:
            raise _refused("a WITH query has a dataset's name", "Choose another name after WITH.")
        cte.args["alias"].set("this", exp.to_identifier(ctes.setdefault(name, f"{_CTE}{len(ctes)}")))
    used = set()
    for table in tree.find_all(exp.Table):
        if type(table.this) is exp.Anonymous:
            continue
        name = table.name.lower()
        if not isinstance(table.this, exp.Identifier) or table.args.get("db") or table.args.get("catalog"):
            raise _refused("table")
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
        if name in relations:
            used.add(name)
        elif name not in ctes:
            raise _refused("no such dataset", f"There are: {', '.join(sorted(relations))}.")
        table.set("this", exp.to_identifier(ctes.get(name, name)))
    for column in tree.find_all(exp.Column):
        if column.args.get("db") or column.args.get("catalog"):
            raise _refused("name")
    return used


def _resolve_functions(tree: exp.Expr, functions: Collection[str]) -> set[str]:
    """Return the table functions (``<dataset>_as_known_at``) that are used; each takes one constant moment."""
    used = set()
    for table in tree.find_all(exp.Table):
        function = table.this
        if type(function) is not exp.Anonymous:
            continue
        if not isinstance(function.this, str) or function.this.lower() not in functions:
            raise _refused("function")
        given = {name for name, value in table.args.items() if value}
        moments = function.expressions
        if not given <= {"this", "alias"} or len(moments) != 1 or not _is_constant(moments[0]):
            raise _refused("the moment of _as_known_at must be one constant")
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(function.this.lower())))
        used.add(function.this.lower())
    return used


def _is_constant(moment: exp.Expr) -> bool:
    return all(isinstance(node, allowed.MOMENT) for node in moment.walk())


def _reads_everything(tree: exp.Expr) -> bool:
    """Return whether a query has a star, or uses the name of a source as a column, which means its whole row."""
    sources = {source.alias.lower() for source in tree.find_all(exp.Table, exp.Subquery)}
    stars = any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star))
    return stars or any(not column.table and column.name.lower() in sources for column in tree.find_all(exp.Column))


def _generate(tree: exp.Expr) -> str:
    return tree.sql(dialect="duckdb", identify=True, comments=False)


def _digest(tree: exp.Expr) -> str:
    form = tree.copy()
    for literal in list(form.find_all(exp.Literal)):
        literal.replace(exp.Literal(this="0", is_string=literal.is_string))
    return hashlib.sha256(_generate(form).encode()).hexdigest()[:16]
