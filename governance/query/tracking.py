"""Whose rows an answer over identified data rests on: a query is written so that its answer says that itself.

Every SELECT that reads identified rows gets one more column, ``who__``: the subjects behind each of its rows. A row as
it is has those of its sources, a group those of all its rows. Where a column cannot carry them (a window sees other
rows, a set operation compares rows, a subquery in a condition gives none), a second query, the *aside*, asks for all
subjects that this part could have read; it is made of tables and their own conditions only, so that it gives the same
each time. A query that shows who does not match (outer and anti joins, EXCEPT, NOT IN) asks for whole tables, without
their conditions. So an answer may be said to rest on more patients than it does, never on fewer. What was not reached
on the way through a query is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import sqlglot
from sqlglot import exp

from governance.query.errors import untold
from governance.query.relations import SUBJECT, WHO, known_name, versions_name
from vitalake import clock

State = Literal["none", "carried", "aside"]
"""Of a part of a query: reads nobody's rows, has the column, or the aside tells its patients."""

_NOBODY = "CAST([] AS BLOB[])"


@dataclass(frozen=True, slots=True)
class Tracked:
    """A query that tells whose rows its answer rests on.

    Attributes:
        sql: with ``who__`` as the last column, if it is carried.
        carried: whether it is.
        aside: a query of one column, of subjects; empty: there is nothing more to ask.
        cut: another one, for an answer of which not all rows are shown; empty: the rows that are shown tell all, with
            one that is not.
    """

    sql: str
    carried: bool
    aside: str
    cut: str


def track(sql: str, identified: Collection[str]) -> Tracked:
    """Return a query that was checked so that it tells its patients.

    Args:
        sql: as ``check`` wrote it.
        identified: names of identified datasets; each also as ``<name>_versions`` and ``<name>_as_known_at(moment)``.

    Raises:
        QueryRefused: it cannot be known whose rows the answer would rest on.
    """
    tree = _parsed(sql)
    if any(name.name.lower().startswith(WHO) for name in tree.find_all(exp.Identifier)):
        raise untold("a name that is taken")
    if not all(map(_is_number, tree.find_all(exp.Limit, exp.Offset))):
        raise untold("a LIMIT or OFFSET that is not a number", "Write the number.")
    _stop_the_clock(tree)
    parts = list(tree.find_all(exp.Query, exp.Table))
    forms = frozenset(form for name in identified for form in (name, versions_name(name), known_name(name)))
    inner = [query for part in parts if isinstance(part, exp.Select) for query in _inner_queries(part)]
    asked = {id(node) for query in inner for node in query.find_all(exp.Query)}
    sources = [part for part in parts if id(part) not in asked]
    groups = {id(part) for part in sources if isinstance(part, exp.Select) and _kind(part) == "groups"}
    limited = {id(part) for part in sources if part.args.get("limit")}
    tracker = _Tracker(forms, _shows_absence(tree), groups, limited)
    state = tracker.query(tree, carry=True)
    if not tracker.reached.issuperset(id(part) for part in parts if isinstance(part, exp.Select | exp.Table)):
        raise untold("a subquery or a join in a place where its rows cannot be followed")
    cut = tracker.patients(tree) if state == "carried" and tracker.tells_together(tree, but=tree) else ()
    return Tracked(_sql(tree), state == "carried", _together(tracker.asides), _together(cut))


def also(tracked: Tracked, subjects: Collection[str]) -> Tracked:
    """Return a query that tells more patients aside.

    Args:
        tracked: the query.
        subjects: queries of one column, of subjects.
    """
    every = [f"SELECT {SUBJECT} AS {WHO} FROM ({query})" for query in subjects]  # noqa: S608
    return replace(tracked, aside=" UNION ALL ".join([*([tracked.aside] if tracked.aside else []), *every]))


@dataclass(slots=True)
class _Tracker:
    """What was found on the way through a query.

    Attributes:
        identified: names of identified relations.
        whole: whether asides ask for whole tables, without the conditions of the query.
        groups: ids of the SELECTs whose rows are groups; queries within expressions are asked for aside, and not here.
        limited: ids of the queries with a LIMIT; of the same ones.
        reached: ids of the SELECTs and tables of the query that were seen on the way.
        commons: common tables that can be named here, and how they tell their patients.
        defined: all common tables so far.
        asides: queries of one column, ``who__``.
        names: how many sources were named by us.
    """

    identified: frozenset[str]
    whole: bool
    groups: Collection[int]
    limited: Collection[int]
    reached: set[int] = field(default_factory=set)
    commons: dict[str, State] = field(default_factory=dict)
    defined: dict[str, list[exp.Expr]] = field(default_factory=dict)
    asides: set[str] = field(default_factory=set)
    names: int = 0

    def query(self, node: exp.Expr, *, carry: bool) -> State:
        """Let a query tell its patients; without ``carry`` it is only kept from showing those of its sources."""
        self.reached.add(id(node))
        # Which rows are shown depends on the rows that are skipped, and after a LIMIT on groups of others.
        if carry and (node.args.get("offset") or (id(node) in self.limited and self.tells_together(node, but=node))):
            self.query(node, carry=False)
            return self._asked(node)
        outside = dict(self.commons)
        found = node.args.get("with_")
        for common in found.expressions if found else ():
            self.commons[common.alias] = self.query(common.this, carry=carry)
            self.defined.setdefault(common.alias, []).append(common.this)
        if isinstance(node, exp.Subquery):
            state = self.query(node.this, carry=carry)
        elif isinstance(node, exp.SetOperation):
            state = self._set(node, carry=carry)
        elif isinstance(node, exp.Select):
            state = self._select(node, carry=carry)
        else:
            raise untold("brackets around a join")
        self.commons = outside
        return state

    def _set(self, node: exp.SetOperation, *, carry: bool) -> State:
        sides = (node.this, node.expression)
        carry = carry and isinstance(node, exp.Union) and not node.args.get("distinct")
        states = [self.query(side, carry=carry) for side in sides]
        if not carry:
            return self._asked(node)
        if "carried" not in states:
            return "aside" if "aside" in states else "none"
        for side, state in zip(sides, states, strict=True):
            if state != "carried":
                wrapped = f"SELECT *, {_NOBODY} AS {WHO} FROM ({_sql(side)}) AS {self._name()}"  # noqa: S608
                side.replace(_parsed(wrapped))
        return "carried"

    def _select(self, select: exp.Expr, *, carry: bool) -> State:
        inner = _inner_queries(select)
        for query in inner:
            self.query(query, carry=False)
        asked = [self._asked(query) == "aside" for query in inner] if carry else []
        rows, aside = self._sources(select, carry=carry)
        if not carry or not rows:
            return "aside" if aside or any(asked) else "none"
        kind = _kind(select)
        if kind == "compared":
            return self._asked(select)
        row = rows[0] if len(rows) == 1 else f"list_concat({', '.join(rows)})"
        row = row if kind == "rows" else f"list_distinct(flatten(list({row})))"
        select.append("expressions", exp.alias_(_parsed(row), WHO, quoted=True))
        if kind == "distinct":
            select.set("distinct", None)
            select.set("group", exp.Group(all=True))
        return "carried"

    def _sources(self, select: exp.Expr, *, carry: bool) -> tuple[list[str], bool]:
        """Return what says whose a row is, and whether some are asked aside; keep stars from showing it."""
        rows, aside, hidden, found = [], False, set[str](), _sources(select)
        chooses = len(found) > 1 or bool(select.args.get("where"))
        for place, (join, source) in enumerate(found):
            state, who = self._source(source, carry=carry)
            if who.endswith(WHO):
                hidden.add(source.alias)
            later = [join for join, _ in found[place + 1 :] if join]
            hides = (join and _hides_right(join)) or any(map(_hides_left, later))
            if state == "carried" and (hides or (chooses and self.tells_together(source))):
                state = self._asked(source)
            aside = aside or state == "aside"
            if state == "carried":
                rows.append(f"coalesce({who}, {_NOBODY})" if who.endswith(WHO) else f"list_value({who})")
        for node in select.expressions if hidden else ():
            star = node.this if isinstance(node, exp.Column) else node
            if isinstance(star, exp.Star) and (star is node or node.table in hidden):
                star.set("except_", [*(star.args.get("except_") or ()), exp.to_identifier(WHO, quoted=True)])
        return rows, aside

    def _source(self, source: exp.Expr, *, carry: bool) -> tuple[State, str]:
        """Return how a source tells its patients, and the column that does; ``who__`` if it has that."""
        self.reached.add(id(source))
        if not source.alias:
            source.set("alias", exp.TableAlias(this=exp.to_identifier(self._name())))
        place = _sql(exp.to_identifier(source.alias))
        if isinstance(source, exp.Subquery):
            state = self.query(source, carry=carry)
        elif _name(source) not in self.identified:
            state = self.commons.get(_name(source), "none")
        elif source.args["alias"].args.get("columns"):
            raise untold("other names of columns")
        else:
            return "carried" if carry else "none", f'{place}."{SUBJECT}"'
        return state, f"{place}.{WHO}" if state == "carried" else ""

    def _asked(self, part: exp.Expr) -> State:
        """Ask aside for the patients of a part of a query."""
        found = self.patients(part)
        self.asides |= found
        return "aside" if found else "none"

    def patients(self, part: exp.Expr) -> set[str]:
        """Return queries for the patients of all tables below a part of a query, also by common tables it names."""
        found = set[str]()
        for node in self._below(part):
            for select in node.find_all(exp.Select):
                found |= set(self._rows_of(select))
            if isinstance(node, exp.Table) and _name(node) in self.identified:
                found.add(_whole(node))
        return found

    def tells_together(self, part: exp.Expr, *, but: exp.Expr | None = None) -> bool:
        """Return whether only all rows of a part together tell its patients: to leave out one says something of others.

        To leave out a group says as much as HAVING does. A row within a LIMIT keeps others out: if it is left out
        afterwards, those who are shown are there, or not, because of it.

        Args:
            part: of a query.
            but: its LIMIT does not count.
        """
        return any(
            id(node) in self.groups or (id(node) in self.limited and node is not but)
            for below in self._below(part)
            for node in below.find_all(exp.Query)
        )

    def _below(self, part: exp.Expr) -> Iterator[exp.Expr]:
        """Yield a part of a query, and all common tables that it names, also by others."""
        pending, seen = [part], set[str]()
        while pending:
            node = pending.pop()
            yield node
            names = {_name(table) for table in node.find_all(exp.Table)} - seen
            seen |= names
            pending += [common for name in names for common in self.defined.get(name, ())]

    def _rows_of(self, select: exp.Select) -> Iterator[str]:
        """Yield queries of whose rows a SELECT reads, before it groups, compares or leaves any out."""
        joins, tables = [join for join, _ in _sources(select) if join], [source for _, source in _sources(select)]
        mine = [table for table in tables if isinstance(table, exp.Table) and _name(table) in self.identified]
        plain = all(isinstance(table, exp.Table) and _name(table) not in self.defined for table in tables)
        if self.whole or not plain or _inner_queries(select) or any(map(_hides_right, joins)):
            yield from map(_whole, mine)
        elif mine:
            parts = [select.args["from_"], *joins, select.args.get("where")]
            who = ", ".join(f'{_sql(exp.to_identifier(table.alias))}."{SUBJECT}"' for table in mine)
            yield f"SELECT list_value({who}) AS {WHO} " + " ".join(_sql(part) for part in parts if part)

    def _name(self) -> str:
        self.names += 1
        return f"source__{self.names}"


def _sources(select: exp.Expr) -> list[tuple[exp.Expr | None, exp.Expr]]:
    """Return join and source of each of a SELECT's sources; the first one has no join."""
    begin = select.args.get("from_")
    return [*([(None, begin.this)] if begin else []), *((join, join.this) for join in select.args.get("joins") or ())]


def _hides_right(join: exp.Expr) -> bool:
    """Return whether rows of a join may be without those of its own side."""
    return join.args.get("kind") in ("SEMI", "ANTI") or join.args.get("side") in ("LEFT", "FULL")


def _hides_left(join: exp.Expr) -> bool:
    """Return whether rows of a join may be without those of the sources before it."""
    return join.args.get("side") in ("RIGHT", "FULL")


def _shows_absence(tree: exp.Expr) -> bool:
    """Return whether a query may show rows because an identified one does not match them."""
    joins = any(join.args.get("kind") == "ANTI" or join.args.get("side") for join in tree.find_all(exp.Join))
    return joins or tree.find(exp.Except) is not None or not all(map(_must_match, tree.find_all(exp.In)))


def _must_match(node: exp.In) -> bool:
    """Return whether IN has no subquery, or leaves out what it does not match: it is a condition by itself."""
    above = node.parent
    while isinstance(above, exp.And | exp.Paren):
        above = above.parent
    return not node.args.get("query") or isinstance(above, exp.Where)


def _together(asides: Collection[str]) -> str:
    """Return one query for all subjects of some; empty, if there are none."""
    every = " UNION ALL ".join(sorted(asides))
    return f"SELECT DISTINCT unnest({WHO}) AS {WHO} FROM ({every})" if every else ""  # noqa: S608


def _whole(table: exp.Expr) -> str:
    return f'SELECT list_value("{SUBJECT}") AS {WHO} FROM {_sql(table)}'  # noqa: S608


def _name(table: exp.Expr) -> str:
    """Return the name of a relation, or of the function that gives it."""
    return (table.name if isinstance(table.this, exp.Identifier) else str(table.this.this)).lower()


def _inner_queries(select: exp.Expr) -> list[exp.Expr]:
    """Return the outermost queries within a SELECT's expressions and conditions; not its sources."""
    found: list[exp.Expr] = []
    sources = {id(source) for _, source in _sources(select)}

    def prune(node: exp.Expr) -> bool:
        if node is not select and isinstance(node, exp.Query) and id(node) not in sources:
            found.append(node)
        return node is not select and isinstance(node, exp.Query | exp.With)

    for _ in select.walk(prune=prune):
        pass
    return found


def _kind(select: exp.Expr) -> Literal["rows", "groups", "distinct", "compared"]:
    """Return what a row of a SELECT stands for: a row, a group, equal rows; or it was compared with others."""
    parts = [*select.expressions, *(select.args.get(name) for name in ("having", "qualify", "order"))]
    own = [node for part in parts if part for node in part.walk(prune=lambda node: isinstance(node, exp.Query))]
    distinct = select.args.get("distinct")
    grouped = bool(select.args.get("group")) or any(isinstance(node, exp.AggFunc) for node in own)
    # What HAVING leaves out is as much an answer as what it shows: whether any group is that large.
    compares = any(isinstance(node, exp.Window) for node in own) or bool(select.args.get("having"))
    if compares or (distinct and (grouped or distinct.args.get("on"))):
        return "compared"
    return "groups" if grouped else "distinct" if distinct else "rows"


def _is_number(limit: exp.Expr) -> bool:
    """Return whether a LIMIT or OFFSET is written as a number. What is worked out may be out of range, or not."""
    return isinstance(limit.expression, exp.Literal) and limit.expression.is_number


def _stop_the_clock(tree: exp.Expr) -> None:
    """Let a query and its aside mean the same moment by ``now()``."""
    moment = f"CAST('{clock.now().isoformat()}' AS TIMESTAMPTZ)"
    for node in list(tree.find_all(exp.Anonymous)):
        if str(node.this).lower() == "now":
            node.replace(_parsed(moment))


def _parsed(sql: str) -> exp.Expr:
    return sqlglot.parse_one(sql, read="duckdb")


def _sql(node: exp.Expr) -> str:
    return node.sql(dialect="duckdb", identify=True, comments=False)
