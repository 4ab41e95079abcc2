"""What columns are called: DuckDB gives names of its own, under which what identifies would not be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from sqlglot import exp

from governance.query.errors import QueryRefused, untold

HEX = (exp.Hex, exp.LowerHex)
TEXT = (*HEX, exp.Lower, exp.Upper)
SAME = (exp.Paren, *TEXT)
"""The same value, written in another way. hex() of what is text already is one that no constant is looked up by."""

ONE = (
    exp.AnyValue, exp.ArgMax, exp.ArgMin, exp.Filter, exp.First, exp.FirstValue, exp.IgnoreNulls, exp.Last,
    exp.LastValue, exp.Max, exp.Min, exp.Mode, exp.RespectNulls, exp.Window,
)  # fmt: skip
"""One of many values, whole; what chooses it is none of it."""


def check_names(tree: exp.Expr, known: Collection[str], *, remedy: str) -> None:
    """Stop where a column has a name that is neither a dataset's nor one that the question gives with AS.

    Of two columns ``subject`` of one query DuckDB calls the second ``subject_1`` where another query reads them. What
    would need to be followed for that is refused: two equal names, and ``*`` beside what may have a name of it.

    Args:
        tree: of the question.
        known: names of the columns of all relations that it reads.
        remedy: what to do about a name that is not known.

    Raises:
        QueryRefused: one has.
    """
    given = Counter(alias.alias.lower() for alias in tree.find_all(exp.Alias))
    names = {column.name.lower() for column in tree.find_all(exp.Column) if not is_star(column)}
    if names - {*known, *given}:
        raise QueryRefused(
            "Query is refused (a column is not known: no dataset has it, and no AS names it)",
            where="vitalake sql --identified",
            remedy=remedy,
        )
    for select in tree.find_all(exp.Select):
        if select is not tree:  # nothing names the columns of the outermost one
            _check_shown(select, known, given)


def _check_shown(select: exp.Select, known: Collection[str], given: Mapping[str, int]) -> None:
    stars = [one for one in select.expressions if is_star(one)]
    names = [_called(one) for one in select.expressions if not is_star(one)]
    names += [alias.alias.lower() for star in stars for alias in _renamed(star)]
    names = [name for name in names if name]
    doubled = len({*names}) < len(names) or len(stars) > 1
    # What a star stands for has names of datasets, or such as another AS gives.
    doubled |= bool(stars) and any(name in known or given[name] > 1 for name in names)
    doubled |= bool(select.args.get("joins")) and any(isinstance(star, exp.Star) for star in stars)
    if doubled:
        raise untold("a query within another that may have two columns of one name", "Name its columns, each by AS.")


def is_star(node: exp.Expr) -> bool:
    """Return whether an expression is ``*``, or that of one relation."""
    return isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star))


def _called(shown: exp.Expr) -> str:
    """Return the name of what a query shows; empty: DuckDB makes one that no question can write."""
    node = shown if isinstance(shown, exp.Alias) else shown.unnest()
    return node.alias_or_name.lower() if isinstance(node, exp.Alias | exp.Column) else ""


def _renamed(star: exp.Expr) -> list[exp.Expr]:
    node = star.this if isinstance(star, exp.Column) else star
    return node.args.get("rename") or []


def name_of(column: exp.Expr) -> str:
    """Return the name by which columns are told."""
    return column.name.lower()


def column_of(node: exp.Expr) -> exp.Column | None:
    """Return the column whose whole value an expression is; None: it is none."""
    while isinstance(node, SAME + ONE):
        node = node.this
    return node if isinstance(node, exp.Column) else None


def with_aliases(tree: exp.Expr, names: set[str]) -> set[str]:
    """Return names of columns, and what they are called elsewhere."""
    aliases = [(alias.alias.lower(), column_of(alias.this)) for alias in tree.find_all(exp.Alias)]
    while more := {alias for alias, column in aliases if column is not None and name_of(column) in names} - names:
        names |= more
    return names


def bare(node: exp.Expr) -> exp.Expr:
    """Return a shown expression without its name; a star of one relation is a star."""
    node = node.this if isinstance(node, exp.Alias) else node
    return node.this if isinstance(node, exp.Column) and isinstance(node.this, exp.Star) else node


def selects(query: exp.Expr) -> Iterator[exp.Select]:
    """Yield the SELECTs whose rows are those of a query."""
    if isinstance(query, exp.Select):
        yield query
    elif isinstance(query, exp.SetOperation):
        yield from selects(query.this)
        yield from selects(query.expression)
    else:
        yield from selects(query.this)


def shown(query: exp.Expr) -> Iterator[exp.Expr]:
    """Yield what a query shows, without its names; of a set operation what each side shows."""
    for select in selects(query):
        yield from map(bare, select.expressions)
