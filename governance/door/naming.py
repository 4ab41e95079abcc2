"""Whom a question names: an answer that finds nothing of somebody tells of them too, if it was asked about them.

The rows of an answer do not tell whose rows are not among them. So a question over identified rows chooses patients by
who they are in one way only: by the condition that what identifies equals whole constants. Each constant that names
somebody is looked up and recorded, whatever is found. Besides, what identifies can be shown, counted, grouped, ordered
and joined with what identifies. Everything else that looks into it (LIKE, parts, casts, order, negation, what is put
together) is refused: it would choose without a name.

Columns are told by their names, in the whole query: a name that stands for what identifies somewhere does everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import sqlglot
from sqlglot import exp

from governance.door.errors import QueryRefused, untold
from governance.door.relations import SEALED, as_bytes

_HEX = (exp.Hex, exp.LowerHex)
_TEXT = (*_HEX, exp.Lower, exp.Upper)
_SAME = (exp.Paren, *_TEXT)
"""The same value, written in another way. hex() of what is text already is one that no constant is looked up by."""

_ONE = (
    exp.AnyValue, exp.ArgMax, exp.ArgMin, exp.Filter, exp.First, exp.FirstValue, exp.IgnoreNulls, exp.Last,
    exp.LastValue, exp.Max, exp.Min, exp.Mode, exp.RespectNulls, exp.Window,
)  # fmt: skip
"""One of many values, whole; what chooses it is none of it."""

_EQUAL = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)
_LISTED = (exp.Select, exp.Alias, exp.Group, exp.Ordered, exp.Distinct, exp.Count, exp.ApproxDistinct)
_SOURCES = (exp.From, exp.Join, exp.CTE, exp.Exists)


def constants(
    sql: str, *, identifying: Collection[str], people: Collection[str], texts: Collection[str]
) -> frozenset[str]:
    """Return the constants of a question that may say who somebody is.

    Args:
        sql: as ``check`` wrote it.
        identifying: names of the columns that identify, of all relations that it reads.
        people: those of them that may be compared with a constant: what they hold of a patient can be looked up.
        texts: those of them that hold text, in any of the relations; the others hold bytes.

    Raises:
        QueryRefused: it chooses by who somebody is in another way.
    """
    tree = sqlglot.parse_one(sql, read="duckdb")
    if any(alias.args.get("columns") for alias in tree.find_all(exp.TableAlias)):
        raise untold("other names of columns")
    columns = list(tree.find_all(exp.Column))
    rows = {source.alias.lower() for source in tree.find_all(exp.Table, exp.Subquery)}
    if any(not column.table and _name(column) in rows for column in columns):
        raise untold("a whole row in one value")
    others = _with_aliases(tree, {*identifying} - {*people})
    names = _Names(
        _with_aliases(tree, {*identifying}), others, coded=_has_coded_text(tree, _with_texts(tree, {*texts}))
    )
    names.check(tree, columns)
    said = [literal.this for literal in tree.find_all(exp.Literal) if literal.is_string]
    # Text beside bytes in a set operation is bytes, and a constant that it equals may be written as these.
    return frozenset([*said, *(as_bytes(text).decode(errors="replace") for text in said)])


def _refused(what: str) -> QueryRefused:
    return untold(
        f"{what} what identifies",
        "Ask for a patient with --patient. In SQL show, count, group and join it, or let it equal whole constants.",
    )


def _name(column: exp.Expr) -> str:
    return column.name.lower()


def _column(node: exp.Expr) -> exp.Column | None:
    """Return the column whose whole value an expression is; None: it is none."""
    while isinstance(node, _SAME + _ONE):
        node = node.this
    return node if isinstance(node, exp.Column) else None


def _with_aliases(tree: exp.Expr, names: set[str]) -> set[str]:
    """Return names of columns, and what they are called elsewhere."""
    aliases = [(alias.alias.lower(), _column(alias.this)) for alias in tree.find_all(exp.Alias)]
    while more := {alias for alias, column in aliases if column is not None and _name(column) in names} - names:
        names |= more
    return names


def _is_text(node: exp.Expr, texts: Collection[str]) -> bool:
    """Return whether an expression is a column that holds text, or one made text."""
    while isinstance(node, _SAME + _ONE) and not isinstance(node, _TEXT):
        node = node.this
    return isinstance(node, _TEXT) or (isinstance(node, exp.Column) and _name(node) in texts)


def _with_texts(tree: exp.Expr, texts: set[str]) -> set[str]:
    """Return names of columns that hold text, on any side of a set operation, and what else has it."""
    named = [(alias.alias.lower(), alias.this) for alias in tree.find_all(exp.Alias)]
    for combined in tree.find_all(exp.SetOperation):
        first, *others = [select.expressions for select in _selects(combined)]
        named += [
            (one.alias_or_name.lower(), _bare(node)) for side in others for one, node in zip(first, side, strict=False)
        ]
    while more := {name for name, node in named if _is_text(node, texts)} - texts:
        texts |= more
    return texts


def _has_coded_text(tree: exp.Expr, texts: Collection[str]) -> bool:
    """Return whether text is written in hexadecimal digits, such as those of bytes once more."""
    return any(_is_text(node.this, texts) for node in tree.find_all(*_HEX))


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
            if _name(column) == SEALED:
                raise _refused("a look into")
            if _name(column) in self._names:
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
        column = _column(node)
        return column is not None and _name(column) in self._names

    def _check_column(self, column: exp.Column) -> None:
        node: exp.Expr = column
        while isinstance(node.parent, _SAME + _ONE) and node.arg_key == "this":
            node = node.parent
        above = node.parent
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
            self._check_compared(column, above, [*_shown(query)] if query else above.expressions)
        else:
            raise _refused("a condition on, or a calculation with,")

    def _check_compared(self, column: exp.Column, comparison: exp.Expr, others: Collection[exp.Expr]) -> None:
        if others and all(map(self._identifies, others)):
            return
        if _name(column) in self._others or not others or not all(map(_is_constant, others)):
            raise _refused("a comparison of something else than a constant with")
        if self._coded:
            raise _refused("a comparison beside hex() of text, or hex() twice, with")
        # Whoever is left when all others are named is not named.
        if isinstance(comparison, exp.NEQ | exp.NullSafeNEQ) or not _is_condition(comparison):
            raise _refused("a comparison that is not a condition by itself, or says who not, with")

    def _check_combined(self, combined: exp.SetOperation) -> None:
        """Refuse sides that mean other things by a column: all of them have the name that the first side gives it."""
        sides = [[*select.expressions] for select in _selects(combined)]
        nested = any(inner.args.get("by_name") for inner in combined.find_all(exp.SetOperation))
        if nested or any(isinstance(_bare(node), exp.Star) for side in sides for node in side):
            raise _refused("a set operation of * or BY NAME, which may hide")
        for nodes in zip(*sides, strict=False):
            kinds = {self._kind(node) for node in nodes if not isinstance(_bare(node), exp.Null)}
            # The first one's name is that of all: under NULL's it would not be seen.
            if (len(kinds) > 1 or isinstance(_bare(nodes[0]), exp.Null)) and kinds - {""}:
                raise _refused("a set operation of something else with")

    def _kind(self, node: exp.Expr) -> str:
        column = _column(_bare(node))
        if column is None or _name(column) not in self._names:
            return ""
        return "other" if _name(column) in self._others else "person"

    def _check_inner(self, select: exp.Select) -> None:
        """Refuse a query within an expression that shows what identifies: its value has no name, so it is not seen."""
        node: exp.Expr = select
        while isinstance(node.parent, exp.Subquery | exp.SetOperation):
            node = node.parent
        above = node.parent
        if above is None or isinstance(above, _SOURCES):
            return
        shown = [_bare(one) for one in select.expressions]
        if any(isinstance(one, exp.Star) for one in shown):
            raise _refused("a query of *, in an expression, which may hide")
        beside = isinstance(above, exp.In) and self._identifies(above.this)
        if not beside and any(map(self._identifies, shown)):
            raise _refused("a query in an expression, for")


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


def _bare(node: exp.Expr) -> exp.Expr:
    """Return a shown expression without its name; a star of one relation is a star."""
    node = node.this if isinstance(node, exp.Alias) else node
    return node.this if isinstance(node, exp.Column) and isinstance(node.this, exp.Star) else node


def _selects(query: exp.Expr) -> Iterator[exp.Select]:
    """Yield the SELECTs whose rows are those of a query."""
    if isinstance(query, exp.Select):
        yield query
    elif isinstance(query, exp.SetOperation):
        yield from _selects(query.this)
        yield from _selects(query.expression)
    else:
        yield from _selects(query.this)


def _shown(query: exp.Expr) -> Iterator[exp.Expr]:
    for select in _selects(query):
        yield from map(_bare, select.expressions)
