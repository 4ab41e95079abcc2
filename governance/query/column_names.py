"""Follows the names of columns through a query, and refuses what would give an identifying column an unknown name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from sqlglot import exp

from governance.query.errors import QueryRefused, untraceable

HEX = (exp.Hex, exp.LowerHex)
TEXT = (*HEX, exp.Lower, exp.Upper)
SAME = (exp.Paren, *TEXT)
"""Expressions that return the same value in another notation. See naming.py for hex() of text."""

ONE = (
    exp.AnyValue, exp.ArgMax, exp.ArgMin, exp.Filter, exp.First, exp.FirstValue, exp.IgnoreNulls, exp.Last,
    exp.LastValue, exp.Max, exp.Min, exp.Mode, exp.RespectNulls, exp.Window,
)  # fmt: skip
"""Expressions that return one of many values, whole. The order or condition that selects it is not part of it."""


def check_names(tree: exp.Expr, known: Collection[str], *, remedy: str) -> None:
    """Refuse a query with a column name that is neither a dataset's nor given by the query with AS.

    If a subquery has two columns ``subject``, DuckDB calls the second one ``subject_1`` in the query around it. The
    checks do not follow such names, so what would cause them is refused: two equal names, and ``*`` beside a column
    that may have the same name as one of its columns.

    Args:
        tree: of the query.
        known: names of the columns of all relations that it reads.
        remedy: what to do about a name that is not known.

    Raises:
        QueryRefused: the query has such a column.
    """
    given = Counter(alias.alias.lower() for alias in tree.find_all(exp.Alias))
    names = {column.name.lower() for column in tree.find_all(exp.Column) if not is_star(column)}
    if names - {*known, *given}:
        raise QueryRefused(
            "Query is refused (a column is not known: no dataset in it has the column, and no AS names it)",
            where="vitalake sql --identified",
            remedy=remedy,
        )
    for select in tree.find_all(exp.Select):
        if select is not tree:  # no query reads the outermost one's columns by name
            _check_shown(select, known, given)


def _check_shown(select: exp.Select, known: Collection[str], given: Mapping[str, int]) -> None:
    stars = [one for one in select.expressions if is_star(one)]
    names = [_name_shown(one) for one in select.expressions if not is_star(one)]
    names += [alias.alias.lower() for star in stars for alias in _renamed(star)]
    names = [name for name in names if name]
    doubled = len({*names}) < len(names) or len(stars) > 1
    # The columns of a star have names of datasets, or names that another AS gives.
    doubled |= bool(stars) and any(name in known or given[name] > 1 for name in names)
    doubled |= bool(select.args.get("joins")) and any(isinstance(star, exp.Star) for star in stars)
    if doubled:
        raise untraceable("a subquery that may have two columns of one name", "Name each of its columns with AS.")


def is_star(node: exp.Expr) -> bool:
    """Return whether an expression is ``*`` or ``relation.*``."""
    return isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star))


def _name_shown(shown: exp.Expr) -> str:
    """Return the name of a column of a query's result; empty: DuckDB generates a name that no query can write."""
    node = shown if isinstance(shown, exp.Alias) else shown.unnest()
    return node.alias_or_name.lower() if isinstance(node, exp.Alias | exp.Column) else ""


def _renamed(star: exp.Expr) -> list[exp.Expr]:
    node = star.this if isinstance(star, exp.Column) else star
    return node.args.get("rename") or []


def name_of(column: exp.Expr) -> str:
    """Return a column's name in lower case: DuckDB's names are case-insensitive."""
    return column.name.lower()


def column_of(node: exp.Expr) -> exp.Column | None:
    """Return the column whose whole value an expression returns; None: it returns something else."""
    while isinstance(node, SAME + ONE):
        node = node.this
    return node if isinstance(node, exp.Column) else None


def with_aliases(tree: exp.Expr, names: set[str]) -> set[str]:
    """Return names of columns, together with all aliases that a query gives them."""
    aliases = [(alias.alias.lower(), column_of(alias.this)) for alias in tree.find_all(exp.Alias)]
    while more := {alias for alias, column in aliases if column is not None and name_of(column) in names} - names:
        names |= more
    return names


def bare(node: exp.Expr) -> exp.Expr:
    """Return a shown expression without its alias; ``relation.*`` as ``*``."""
    node = node.this if isinstance(node, exp.Alias) else node
    return node.this if isinstance(node, exp.Column) and isinstance(node.this, exp.Star) else node


def selects(query: exp.Expr) -> Iterator[exp.Select]:
    """Yield the SELECTs whose rows a query returns: itself, or the sides of its set operations."""
    if isinstance(query, exp.Select):
        yield query
    elif isinstance(query, exp.SetOperation):
        yield from selects(query.this)
        yield from selects(query.expression)
    else:
        yield from selects(query.this)


def shown(query: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the expressions that a query shows, without aliases; of a set operation those of each side."""
    for select in selects(query):
        yield from map(bare, select.expressions)
