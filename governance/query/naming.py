"""Finds the patients that a query over identified rows names in its constants, and refuses other ways to pick patients.

An answer without rows of a patient still says something about them if the query asked about them: that they have none.
The rows of an answer cannot show this. So a query may select patients by who they are in one way only: by a condition
that an identifying column equals whole constants. Each constant that names a patient is looked up and recorded, even if
no row is found. Apart from that, identifying columns can be shown, counted, grouped, ordered, and joined with each
other. Every other use of their values (LIKE, substrings, casts, comparison by order, negation, concatenation) is
refused: it would select patients without naming them. What would use the sealed bytes instead of the values is refused
too; see ciphertext.py.

Columns are recognised by name, in the whole query: a name that means an identifying column in one place does so
everywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from governance.query.ciphertext import check_sealed
from governance.query.column_names import (
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
from governance.query.errors import QueryRefused, untraceable
from governance.query.relations import SEALED, as_bytes

_EQUAL = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)
_LISTED = (exp.Select, exp.Alias, exp.Group, exp.Ordered, exp.Distinct, exp.Count, exp.ApproxDistinct)
_SOURCES = (exp.From, exp.Join, exp.CTE, exp.Exists)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns, of all relations that a query reads.

    Attributes:
        all: every one.
        identifying: those that say whom a row is about, or which record it is.
        people: of the identifying ones, those that may be compared with a constant: the vault can look up their values.
        texts: of the identifying ones, those that hold text in any of the relations; the others hold bytes.
        sealed: those whose values are sealed.
        randomised: of the sealed ones, those of which equal values are sealed differently each time.
        remedy: what to do about a name that is none of them.
    """

    all: Collection[str]
    identifying: Collection[str]
    people: Collection[str]
    texts: Collection[str]
    sealed: Collection[str] = ()
    randomised: Collection[str] = ()
    remedy: str = ""


def constants(sql: str, known: Columns) -> frozenset[str]:
    """Return the text constants of a query, each of which may name a patient.

    Args:
        sql: as ``check`` wrote it.
        known: the columns that it reads.

    Raises:
        QueryRefused: it selects patients by who they are in another way, or would use sealed bytes as values.
    """
    tree = sqlglot.parse_one(sql, read="duckdb")
    if any(alias.args.get("columns") for alias in tree.find_all(exp.TableAlias)):
        raise untraceable("a table alias that renames columns", "Rename columns with AS in the SELECT.")
    columns = [column for column in tree.find_all(exp.Column) if not is_star(column)]
    rows = {source.alias.lower() for source in tree.find_all(exp.Table, exp.Subquery)}
    if any(not column.table and name_of(column) in rows for column in columns):
        raise untraceable("a whole row in one value")
    others = with_aliases(tree, {*known.identifying} - {*known.people})
    coded = _has_coded_text(tree, _with_texts(tree, {*known.texts}))
    _Names(with_aliases(tree, {*known.identifying}), others, coded=coded).check(tree, columns)
    check_names(tree, known.all, remedy=known.remedy)
    check_sealed(tree, columns, known)
    literals = [literal.this for literal in tree.find_all(exp.Literal) if literal.is_string]
    # A set operation of text and bytes casts text to bytes, so that a constant may be written with \x escapes there.
    return frozenset([*literals, *(as_bytes(text).decode(errors="replace") for text in literals)])


def _refused(what: str) -> QueryRefused:
    return untraceable(
        f"{what} an identifying column",
        "Ask for a patient with --patient. In SQL show, count, group or join such a column, or compare it by = or IN "
        "with whole constants.",
    )


def _is_text(node: exp.Expr, texts: Collection[str]) -> bool:
    """Return whether an expression is a column that holds text, or a column converted to text."""
    while isinstance(node, SAME + ONE) and not isinstance(node, TEXT):
        node = node.this
    return isinstance(node, TEXT) or (isinstance(node, exp.Column) and name_of(node) in texts)


def _with_texts(tree: exp.Expr, texts: set[str]) -> set[str]:
    """Return names of columns that hold text, together with the names under which a query shows text.

    A column of a set operation counts if any of its sides is text.
    """
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
    """Return whether a query applies hex() to text; hex(hex(bytes)) does so too."""
    return any(_is_text(node.this, texts) for node in tree.find_all(*HEX))


class _Names:
    """Checks the names that mean identifying columns."""

    def __init__(self, names: Collection[str], others: Collection[str], *, coded: bool) -> None:
        """Store the names.

        Args:
            names: all of them.
            others: those whose values the vault cannot look up.
            coded: the query applies hex() to text: a constant may then be a form of an id that the vault cannot look
                up.
        """
        self._names, self._others, self._coded = names, others, coded

    def check(self, tree: exp.Expr, columns: Collection[exp.Column]) -> None:
        """Refuse a query that uses an identifying column in any way that is not allowed."""
        for column in columns:
            if name_of(column) == SEALED:
                raise _refused("the sealed bytes of")
            if name_of(column) in self._names:
                self._check_column(column)
        for alias in tree.find_all(exp.Alias):
            if alias.alias.lower() in self._names and not self._identifies(alias.this):
                raise _refused("another expression under the name of")
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
            raise _refused("a comparison of something other than a text constant with")
        if self._coded:
            raise _refused("a comparison, in a query with hex() of text or hex() twice, with")
        # A query that excludes all patients but one selects that one without naming them.
        if isinstance(comparison, exp.NEQ | exp.NullSafeNEQ) or not _is_condition(comparison):
            raise _refused("a negated comparison, or one that is not a condition by itself, with")

    def _check_combined(self, combined: exp.SetOperation) -> None:
        """Refuse a set operation whose sides mix kinds in a column: the first side's name would hide the others'."""
        sides = [[*select.expressions] for select in selects(combined)]
        nested = any(inner.args.get("by_name") for inner in combined.find_all(exp.SetOperation))
        if nested or any(isinstance(bare(node), exp.Star) for side in sides for node in side):
            raise _refused("a set operation of * or BY NAME, which may hide")
        for nodes in zip(*sides, strict=False):
            kinds = {self._kind(node) for node in nodes if not isinstance(bare(node), exp.Null)}
            # The first side names the column: a first NULL would hide that the column identifies.
            if (len(kinds) > 1 or isinstance(bare(nodes[0]), exp.Null)) and kinds - {""}:
                raise _refused("a set operation of something other with")

    def _kind(self, node: exp.Expr) -> str:
        column = column_of(bare(node))
        if column is None or name_of(column) not in self._names:
            return ""
        return "other" if name_of(column) in self._others else "person"

    def _check_inner(self, select: exp.Select) -> None:
        """Refuse a subquery in an expression that shows an identifying column: its value has no name to recognise."""
        node: exp.Expr = select
        while isinstance(node.parent, exp.Subquery | exp.SetOperation):
            node = node.parent
        above = node.parent
        if above is None or isinstance(above, _SOURCES):
            return
        shown = [bare(one) for one in select.expressions]
        if any(isinstance(one, exp.Star) for one in shown):
            raise _refused("a subquery of *, in an expression, which may hide")
        matched = isinstance(above, exp.In) and self._identifies(above.this)
        if not matched and any(map(self._identifies, shown)):
            raise _refused("a subquery in an expression that shows")


def _is_hidden(node: exp.Expr) -> bool:
    """Return whether a value of a column may come out of an expression that is not recognised as this column."""
    above = node.parent
    if isinstance(above, exp.Ordered):  # mode() WITHIN GROUP (ORDER BY it), which is written as mode(ORDER BY it)
        order = above.parent
        return order is None or not isinstance(order.parent, exp.Query | exp.Window)
    return isinstance(above, exp.Distinct) and not isinstance(above.parent, exp.Select | exp.Count)  # max(DISTINCT it)


def _is_constant(node: exp.Expr) -> bool:
    """Return whether a value is a text literal; DuckDB would compare a number literal by its numeric value."""
    constant = node.unnest()
    return isinstance(constant, exp.Literal) and constant.is_string


def _is_condition(node: exp.Expr) -> bool:
    """Return whether an expression is, joined by AND and OR only, a condition of WHERE, JOIN, HAVING or QUALIFY."""
    above = node.parent
    while isinstance(above, exp.And | exp.Or | exp.Paren):
        above = above.parent
    return isinstance(above, exp.Where | exp.Join | exp.Having | exp.Qualify)
