"""Whom a question names: an answer that finds nothing of somebody tells of them too, if it was asked about them.

The rows of an answer do not tell whose rows are not among them. So a question over identified rows chooses patients by
who they are in one way only: by the condition that what identifies equals whole constants. Each constant that names
somebody is looked up and recorded, whatever is found. Besides, what identifies can be shown, counted, grouped, ordered
and joined with what identifies. Everything else that looks into it (LIKE, parts, casts, order, negation, what is put
together) is refused: it would choose without a name. What is sealed has no order, and where equal values are sealed
differently each time they are not equal: what would answer by the sealed bytes is refused, too.

Columns are told by their names, in the whole query: a name that stands for what identifies somewhere does everywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from governance.query.called import (
    HEX,
    ONE,
    SAME,
    TEXT,
    bare,
    check_names,
    column_of,
    is_star,
    name_of,
    selects,
    shown,
    with_aliases,
)
from governance.query.ciphertext import check_sealed
from governance.query.errors import QueryRefused, untold
from governance.query.relations import SEALED, as_bytes

_EQUAL = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)
_LISTED = (exp.Select, exp.Alias, exp.Group, exp.Ordered, exp.Distinct, exp.Count, exp.ApproxDistinct)
_SOURCES = (exp.From, exp.Join, exp.CTE, exp.Exists)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns, of all relations that a question reads.

    Attributes:
        all: every one.
        identifying: those that identify.
        people: those of them that may be compared with a constant: what they hold of a patient can be looked up.
        texts: those of them that hold text, in any of the relations; the others hold bytes.
        sealed: those whose values are sealed.
        varying: those of them whose equal values are sealed differently each time.
        remedy: what to do about a name that is none of them.
    """

    all: Collection[str]
    identifying: Collection[str]
    people: Collection[str]
    texts: Collection[str]
    sealed: Collection[str] = ()
    varying: Collection[str] = ()
    remedy: str = ""


def constants(sql: str, known: Columns) -> frozenset[str]:
    """Return the constants of a question that may say who somebody is.

    Args:
        sql: as ``check`` wrote it.
        known: what it reads.

    Raises:
        QueryRefused: it chooses by who somebody is in another way, or would answer by sealed bytes.
    """
    tree = sqlglot.parse_one(sql, read="duckdb")
    if any(alias.args.get("columns") for alias in tree.find_all(exp.TableAlias)):
        raise untold("other names of columns")
    columns = [column for column in tree.find_all(exp.Column) if not is_star(column)]
    rows = {source.alias.lower() for source in tree.find_all(exp.Table, exp.Subquery)}
    if any(not column.table and name_of(column) in rows for column in columns):
        raise untold("a whole row in one value")
    others = with_aliases(tree, {*known.identifying} - {*known.people})
    coded = _has_coded_text(tree, _with_texts(tree, {*known.texts}))
    _Names(with_aliases(tree, {*known.identifying}), others, coded=coded).check(tree, columns)
    check_names(tree, known.all, remedy=known.remedy)
    check_sealed(tree, columns, known)
    said = [literal.this for literal in tree.find_all(exp.Literal) if literal.is_string]
    # Text beside bytes in a set operation is bytes, and a constant that it equals may be written as these.
    return frozenset([*said, *(as_bytes(text).decode(errors="replace") for text in said)])


def _refused(what: str) -> QueryRefused:
    return untold(
        f"{what} what identifies",
        "Ask for a patient with --patient. In SQL show, count, group and join it, or let it equal whole constants.",
    )


def _is_text(node: exp.Expr, texts: Collection[str]) -> bool:
    """Return whether an expression is a column that holds text, or one made text."""
    while isinstance(node, SAME + ONE) and not isinstance(node, TEXT):
        node = node.this
    return isinstance(node, TEXT) or (isinstance(node, exp.Column) and name_of(node) in texts)


def _with_texts(tree: exp.Expr, texts: set[str]) -> set[str]:
    """Return names of columns that hold text, on any side of a set operation, and what else has it."""
    named = [(alias.alias.lower(), alias.this) for alias in tree.find_all(exp.Alias)]
    for combined in tree.find_all(exp.SetOperation):
        first, *others = [select.expressions for select in selects(combined)]
        named += [
            (one.alias_or_name.lower(), bare(node)) for side in others for one, node in zip(first, side, strict=False)
        ]
    while more := {name for name, node in named if _is_text(node, texts)} - texts:
        texts |= more
    return texts


def _has_coded_text(tree: exp.Expr, texts: Collection[str]) -> bool:
    """Return whether text is written in hexadecimal digits, such as those of bytes once more."""
    return any(_is_text(node.this, texts) for node in tree.find_all(*HEX))


class _Names:
    """The names that stand for what identifies."""

    def __init__(self, names: Collection[str], others: Collection[str], *, coded: bool) -> None:
        """Take them.

        Args:
            names: all of them.
            others: those whose values cannot be looked up.
            coded: text is written in hexadecimal digits somewhere: no constant is taken for what it stands for.
        """
        self._names, self._others, self._coded = names, others, coded

    def check(self, tree: exp.Expr, columns: Collection[exp.Column]) -> None:
        """Hold every place in a query where one of them stands to the list."""
        for column in columns:
            if name_of(column) == SEALED:
                raise _refused("a look into")
            if name_of(column) in self._names:
                self._check_column(column)
        for alias in tree.find_all(exp.Alias):
            if alias.alias.lower() in self._names and not self._identifies(alias.this):
                raise _refused("something else under the name of")
        for combined in tree.find_all(exp.SetOperation):
            if not combined.args.get("by_name"):
                self._check_combined(combined)
        for select in tree.find_all(exp.Select):
            self._check_inner(select)

    def _identifies(self, node: exp.Expr) -> bool:
        column = column_of(node)
        return column is not None and name_of(column) in self._names

    def _check_column(self, column: exp.Column) -> None:
        node: exp.Expr = column
        while isinstance(node.parent, SAME + ONE) and node.arg_key == "this":
            node = node.parent
        above = node.parent
        if _is_hidden(node):
            raise _refused("an aggregate with an ORDER BY or DISTINCT of its own, which may hide")
        if isinstance(above, exp.Tuple):
            above = above.parent
            listed = isinstance(above, exp.Group | exp.Distinct)
        else:
            listed = isinstance(above, _LISTED) or (isinstance(above, exp.Window) and node.arg_key == "partition_by")
        if listed or (isinstance(above, exp.Is) and isinstance(above.expression, exp.Null)):
            return
        if isinstance(above, _EQUAL):
            self._check_compared(column, above, [above.expression if node is above.this else above.this])
        elif isinstance(above, exp.In) and node is above.this:
            query = above.args.get("query")
            self._check_compared(column, above, [*shown(query)] if query else above.expressions)
        else:
            raise _refused("a condition on, or a calculation with,")

    def _check_compared(self, column: exp.Column, comparison: exp.Expr, others: Collection[exp.Expr]) -> None:
        if others and all(map(self._identifies, others)):
            return
        if name_of(column) in self._others or not others or not all(map(_is_constant, others)):
            raise _refused("a comparison of something else than a constant with")
        if self._coded:
            raise _refused("a comparison beside hex() of text, or hex() twice, with")
        # Whoever is left when all others are named is not named.
        if isinstance(comparison, exp.NEQ | exp.NullSafeNEQ) or not _is_condition(comparison):
            raise _refused("a comparison that is not a condition by itself, or says who not, with")

    def _check_combined(self, combined: exp.SetOperation) -> None:
        """Refuse sides that mean other things by a column: all of them have the name that the first side gives it."""
        sides = [[*select.expressions] for select in selects(combined)]
        nested = any(inner.args.get("by_name") for inner in combined.find_all(exp.SetOperation))
        if nested or any(isinstance(bare(node), exp.Star) for side in sides for node in side):
            raise _refused("a set operation of * or BY NAME, which may hide")
        for nodes in zip(*sides, strict=False):
            kinds = {self._kind(node) for node in nodes if not isinstance(bare(node), exp.Null)}
            # The first one's name is that of all: under NULL's it would not be seen.
            if (len(kinds) > 1 or isinstance(bare(nodes[0]), exp.Null)) and kinds - {""}:
                raise _refused("a set operation of something else with")

    def _kind(self, node: exp.Expr) -> str:
        column = column_of(bare(node))
        if column is None or name_of(column) not in self._names:
            return ""
        return "other" if name_of(column) in self._others else "person"

    def _check_inner(self, select: exp.Select) -> None:
        """Refuse a query within an expression that shows what identifies: its value has no name, so it is not seen."""
        node: exp.Expr = select
        while isinstance(node.parent, exp.Subquery | exp.SetOperation):
            node = node.parent
        above = node.parent
        if above is None or isinstance(above, _SOURCES):
            return
        shown = [bare(one) for one in select.expressions]
        if any(isinstance(one, exp.Star) for one in shown):
            raise _refused("a query of *, in an expression, which may hide")
        beside = isinstance(above, exp.In) and self._identifies(above.this)
        if not beside and any(map(self._identifies, shown)):
            raise _refused("a query in an expression, for")


def _is_hidden(node: exp.Expr) -> bool:
    """Return whether one of the values of a column may come out of where it stands, as of no column."""
    above = node.parent
    if isinstance(above, exp.Ordered):  # mode() WITHIN GROUP (ORDER BY it), which is written as mode(ORDER BY it)
        order = above.parent
        return order is None or not isinstance(order.parent, exp.Query | exp.Window)
    return isinstance(above, exp.Distinct) and not isinstance(above.parent, exp.Select | exp.Count)  # max(DISTINCT it)


def _is_constant(node: exp.Expr) -> bool:
    """Return whether a value is written as text; of a number it would be the number in it that counts."""
    constant = node.unnest()
    return isinstance(constant, exp.Literal) and constant.is_string


def _is_condition(node: exp.Expr) -> bool:
    """Return whether rows are there if this holds, alone or with others; not if it does not hold."""
    above = node.parent
    while isinstance(above, exp.And | exp.Or | exp.Paren):
        above = above.parent
    return isinstance(above, exp.Where | exp.Join | exp.Having | exp.Qualify)
