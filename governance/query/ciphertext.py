"""Refuses queries that would silently give wrong answers on sealed values: their bytes have no meaningful order.

Where sealing is randomised, equal values are not even equal bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from sqlglot import exp

from governance.query.column_names import ONE, SAME, column_of, is_star, name_of, shown, with_aliases
from governance.query.errors import QueryRefused

if TYPE_CHECKING:
    from governance.query.naming import Columns


def check_sealed(tree: exp.Expr, columns: Iterable[exp.Column], known: Columns) -> None:
    """Refuse a query that orders sealed values, or compares those whose sealing is randomised.

    Raises:
        QueryRefused: it does.
    """
    sealed, randomised = with_aliases(tree, {*known.sealed}), with_aliases(tree, {*known.randomised})
    for column in columns:
        if name_of(column) in sealed:
            _check_column(column, is_randomised=name_of(column) in randomised)
    used = (name.name.lower() for join in tree.find_all(exp.Join) for name in join.args.get("using") or ())
    if any(name in randomised for name in used):
        raise _unequal()
    for query in tree.find_all(exp.Select, exp.SetOperation):
        _check_positions(query, sealed, randomised)


def _check_column(column: exp.Column, *, is_randomised: bool) -> None:
    node: exp.Expr = column
    while isinstance(node.parent, (*SAME, *ONE, exp.Distinct)) and node.arg_key in ("this", "expressions"):
        node = node.parent
        if isinstance(node, exp.Min | exp.Max):
            raise _unordered()
        if is_randomised and isinstance(node, exp.Mode | exp.Distinct):
            raise _unequal()
    above = node.parent
    if isinstance(above, exp.Ordered):
        raise _unordered()
    above = above.parent if isinstance(above, exp.Tuple) else above
    compared = isinstance(above, exp.Group | exp.Distinct | exp.ApproxDistinct | exp.EQ | exp.NEQ | exp.In)
    compared |= isinstance(above, exp.NullSafeEQ | exp.NullSafeNEQ)
    if is_randomised and (compared or (isinstance(above, exp.Window) and node.arg_key == "partition_by")):
        raise _unequal()


def _check_positions(query: exp.Expr, sealed: Collection[str], randomised: Collection[str]) -> None:
    """Refuse the same where a query names columns by position (``ORDER BY 1``), or compares whole rows."""
    order, group, distinct = (query.args.get(name) for name in ("order", "group", "distinct"))
    if order and any(isinstance(one.this, exp.Literal) for one in order.expressions) and _shows(query, sealed):
        raise _unordered()
    if isinstance(query, exp.SetOperation):
        compared = bool(distinct) or not isinstance(query, exp.Union)
    else:
        compared = bool(distinct and not distinct.args.get("on"))
        compared |= bool(
            group and (group.args.get("all") or any(isinstance(g, exp.Literal) for g in group.expressions))
        )
    if compared and _shows(query, randomised, ignoring=ONE):
        raise _unequal()


def _shows(query: exp.Expr, names: Collection[str], *, ignoring: tuple[type[exp.Expr], ...] = ()) -> bool:
    """Return whether a query may show one of these columns other than by the ignored expressions."""
    for one in shown(query):
        column = column_of(one)
        if names and is_star(one):
            return True
        if column is not None and name_of(column) in names and not isinstance(one.unnest(), ignoring):
            return True
    return False


_REMEDY = "Show the values, for example of one patient with --patient, and sort or count the opened answer."


def _unordered() -> QueryRefused:
    return _refused("sealed values have no order: min, max and ORDER BY would sort their ciphertext")


def _unequal() -> QueryRefused:
    return _refused("equal values of this class are sealed differently each time, so they do not compare as equal")


def _refused(what: str) -> QueryRefused:
    return QueryRefused(f"Query is refused ({what})", where="vitalake sql --identified", remedy=_REMEDY)
