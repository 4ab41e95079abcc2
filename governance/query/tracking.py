"""Rewrites a query over identified rows so that its answer also says which patients' rows it uses (row provenance).

Every SELECT that reads identified rows gets one more column, ``who__``: the subjects behind each of its rows. A plain
row has the subjects of its sources, a group those of all its rows: the column *carries* them. Where a column cannot
(a window sees other rows, a set operation compares rows, a subquery in a condition returns none), a second query, the
*side query*, asks for all subjects that this part could have read. It consists of tables and their own conditions only,
so that it finds the same subjects each time. A query that shows who does not match (outer and anti joins, EXCEPT, NOT
IN) asks for whole tables, without their conditions. So the record may name more patients than the answer uses, never
fewer. A query is refused if the walk through it does not reach each of its SELECTs and tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import sqlglot
from sqlglot import exp

from governance.query.errors import untraceable
from governance.query.relations import SUBJECT, WHO, as_known_at_name, versions_name
from vitalake import clock

State = Literal["none", "carried", "aside"]
"""How a part of a query names its patients: it reads no identified rows, has ``who__``, or a side query finds them."""

_NO_SUBJECTS = "CAST([] AS BLOB[])"


@dataclass(frozen=True, slots=True)
class Tracked:
    """A query whose answer names the patients that it depends on.

    Attributes:
        sql: the query; with ``who__``, mostly as the last column, if ``carried``.
        carried: whether the answer has the column ``who__``.
        side_query: a query of one column, of subjects, to run as well; empty: none is needed.
        truncation_query: another one, to run if not all rows of the answer are shown; empty: the subjects of the rows
            that are shown, and of the next one, are all.
    """

    sql: str
    carried: bool
    side_query: str
    truncation_query: str


def track(sql: str, identified: Collection[str]) -> Tracked:
    """Return a checked query, rewritten so that its answer names the patients it depends on.

    Args:
        sql: as ``check`` wrote it.
        identified: names of identified datasets; each also as ``<name>_versions`` and ``<name>_as_known_at(moment)``.

    Raises:
        QueryRefused: it cannot be told which patients' rows the answer would use.
    """
    tree = _parsed(sql)
    if any(name.name.lower().startswith(WHO) for name in tree.find_all(exp.Identifier)):
        raise untraceable(f"a name that begins with {WHO}", "Choose another name.")
    if not all(map(_is_number, tree.find_all(exp.Limit, exp.Offset))):
        raise untraceable("a LIMIT or OFFSET that is not a number", "Write the number.")
    _fix_now(tree)
    parts = list(tree.find_all(exp.Query, exp.Table))
    forms = frozenset(form for name in identified for form in (name, versions_name(name), as_known_at_name(name)))
    inner = [query for part in parts if isinstance(part, exp.Select) for query in _inner_queries(part)]
    in_expressions = {id(node) for query in inner for node in query.find_all(exp.Query)}
    sources = [part for part in parts if id(part) not in in_expressions]
    groups = {id(part) for part in sources if isinstance(part, exp.Select) and _row_kind(part) == "groups"}
    limited = {id(part) for part in sources if part.args.get("limit")}
    tracker = _Tracker(forms, _shows_absence(tree), groups, limited)
    state = tracker.query(tree, carry=True)
    if not tracker.reached.issuperset(id(part) for part in parts if isinstance(part, exp.Select | exp.Table)):
        raise untraceable("a subquery or a join in a place where its rows cannot be followed")
    truncated = state == "carried" and tracker.needs_all_rows(tree, ignoring=tree)
    truncation = tracker.patient_queries(tree) if truncated else ()
    return Tracked(_sql(tree), state == "carried", _union(tracker.side_queries), _union(truncation))


def with_side_queries(tracked: Tracked, queries: Collection[str]) -> Tracked:
    """Return a tracked query with more side queries.

    Args:
        tracked: the query.
        queries: each of one column, of subjects.
    """
    every = [f"SELECT {SUBJECT} AS {WHO} FROM ({query})" for query in queries]  # noqa: S608
    before = [tracked.side_query] if tracked.side_query else []
    return replace(tracked, side_query=" UNION ALL ".join([*before, *every]))


@dataclass(slots=True)
class _Tracker:
    """Walks through a query, rewrites it, and collects its side queries.

    Attributes:
        identified: names of identified relations.
        whole: whether side queries ask for whole tables, without the conditions of the query.
        groups: ids of the SELECTs whose rows are groups; without those within expressions, which have side queries.
        limited: ids of the queries with a LIMIT; without the same ones.
        reached: ids of the SELECTs and tables of the query that the walk has visited.
        ctes: common table expressions that are in scope, and how they name their patients.
        defined: all common table expressions so far.
        side_queries: queries of one column, ``who__``.
        names: how many sources this walk has named.
    """

    identified: frozenset[str]
    whole: bool
    groups: Collection[int]
    limited: Collection[int]
    reached: set[int] = field(default_factory=set)
    ctes: dict[str, State] = field(default_factory=dict)
    defined: dict[str, list[exp.Expr]] = field(default_factory=dict)
    side_queries: set[str] = field(default_factory=set)
    names: int = 0

    def query(self, node: exp.Expr, *, carry: bool) -> State:
        """Rewrite a query so that it names its patients; without ``carry`` only hide the ``who__`` of its sources."""
        self.reached.add(id(node))
        # The shown rows depend on the rows that OFFSET skips, and under a LIMIT on the groups that it cuts off.
        limited = id(node) in self.limited and self.needs_all_rows(node, ignoring=node)
        if carry and (node.args.get("offset") or limited):
            self.query(node, carry=False)
            return self._add_side_queries(node)
        outer = dict(self.ctes)
        clause = node.args.get("with_")
        for cte in clause.expressions if clause else ():
            self.ctes[cte.alias] = self.query(cte.this, carry=carry)
            self.defined.setdefault(cte.alias, []).append(cte.this)
        if isinstance(node, exp.Subquery):
            state = self.query(node.this, carry=carry)
        elif isinstance(node, exp.SetOperation):
            state = self._set(node, carry=carry)
        elif isinstance(node, exp.Select):
            state = self._select(node, carry=carry)
        else:
            raise untraceable("brackets around a join")
        self.ctes = outer
        return state

    def _set(self, node: exp.SetOperation, *, carry: bool) -> State:
        sides = (node.this, node.expression)
        carry = carry and isinstance(node, exp.Union) and not node.args.get("distinct")
        states = [self.query(side, carry=carry) for side in sides]
        if not carry:
            return self._add_side_queries(node)
        if "carried" not in states:
            return "aside" if "aside" in states else "none"
        for side, state in zip(sides, states, strict=True):
            if state != "carried":
                wrapped = f"SELECT *, {_NO_SUBJECTS} AS {WHO} FROM ({_sql(side)}) AS {self._name()}"  # noqa: S608
                side.replace(_parsed(wrapped))
        return "carried"

    def _select(self, select: exp.Expr, *, carry: bool) -> State:
        inner = _inner_queries(select)
        for query in inner:
            self.query(query, carry=False)
        inner_states = [self._add_side_queries(query) for query in inner] if carry else []
        subjects, aside = self._sources(select, carry=carry)
        if not carry or not subjects:
            return "aside" if aside or "aside" in inner_states else "none"
        kind = _row_kind(select)
        if kind == "compared":
            return self._add_side_queries(select)
        who = subjects[0] if len(subjects) == 1 else f"list_concat({', '.join(subjects)})"
        who = who if kind == "rows" else f"list_distinct(flatten(list({who})))"
        select.append("expressions", exp.alias_(_parsed(who), WHO, quoted=True))
        if kind == "distinct":
            select.set("distinct", None)
            select.set("group", exp.Group(all=True))
        return "carried"

    def _sources(self, select: exp.Expr, *, carry: bool) -> tuple[list[str], bool]:
        """Return the SQL lists of the subjects of a row, one a source, and whether a source has side queries.

        Excludes the sources' ``who__`` from the stars of the SELECT.
        """
        subjects, aside, hidden, sources = [], False, set[str](), _sources(select)
        selective = len(sources) > 1 or bool(select.args.get("where"))
        for index, (join, source) in enumerate(sources):
            state, who = self._source(source, carry=carry)
            if who.endswith(WHO):
                hidden.add(source.alias)
            later = [join for join, _ in sources[index + 1 :] if join]
            lost = (join and _loses_right(join)) or any(map(_loses_left, later))
            if state == "carried" and (lost or (selective and self.needs_all_rows(source))):
                state = self._add_side_queries(source)
            aside = aside or state == "aside"
            if state == "carried":
                subjects.append(f"coalesce({who}, {_NO_SUBJECTS})" if who.endswith(WHO) else f"list_value({who})")
        for node in select.expressions if hidden else ():
            star = node.this if isinstance(node, exp.Column) else node
            if isinstance(star, exp.Star) and (star is node or node.table in hidden):
                star.set("except_", [*(star.args.get("except_") or ()), exp.to_identifier(WHO, quoted=True)])
        return subjects, aside

    def _source(self, source: exp.Expr, *, carry: bool) -> tuple[State, str]:
        """Return how a source names its patients, and the column that does: ``who__`` or the subject."""
        self.reached.add(id(source))
        if not source.alias:
            source.set("alias", exp.TableAlias(this=exp.to_identifier(self._name())))
        place = _sql(exp.to_identifier(source.alias))
        if isinstance(source, exp.Subquery):
            state = self.query(source, carry=carry)
        elif _name(source) not in self.identified:
            state = self.ctes.get(_name(source), "none")
        elif source.args["alias"].args.get("columns"):
            raise untraceable("a table alias that renames columns", "Rename columns with AS in the SELECT.")
        else:
            return "carried" if carry else "none", f'{place}."{SUBJECT}"'
        return state, f"{place}.{WHO}" if state == "carried" else ""

    def _add_side_queries(self, part: exp.Expr) -> State:
        """Add side queries for the patients of a part of a query."""
        queries = self.patient_queries(part)
        self.side_queries |= queries
        return "aside" if queries else "none"

    def patient_queries(self, part: exp.Expr) -> set[str]:
        """Return queries for the patients of all tables that a part of a query reads, also through CTEs."""
        queries = set[str]()
        for node in self._with_ctes(part):
            for select in node.find_all(exp.Select):
                queries |= set(self._row_queries(select))
            if isinstance(node, exp.Table) and _name(node) in self.identified:
                queries.add(_whole_table(node))
        return queries

    def needs_all_rows(self, part: exp.Expr, *, ignoring: exp.Expr | None = None) -> bool:
        """Return whether the rows that are shown of a part do not name all patients that they depend on.

        This is so with groups: to filter one out says as much as HAVING does. It is so with a LIMIT: a row within it
        keeps others out, and if a later condition drops that row, the answer still depends on it.

        Args:
            part: of a query.
            ignoring: a query whose own LIMIT does not count.
        """
        return any(
            id(node) in self.groups or (id(node) in self.limited and node is not ignoring)
            for below in self._with_ctes(part)
            for node in below.find_all(exp.Query)
        )

    def _with_ctes(self, part: exp.Expr) -> Iterator[exp.Expr]:
        """Yield a part of a query, and all common table expressions that it names, directly or through others."""
        pending, seen = [part], set[str]()
        while pending:
            node = pending.pop()
            yield node
            names = {_name(table) for table in node.find_all(exp.Table)} - seen
            seen |= names
            pending += [cte for name in names for cte in self.defined.get(name, ())]

    def _row_queries(self, select: exp.Select) -> Iterator[str]:
        """Yield queries for the subjects of the rows that a SELECT reads, before it groups, compares or filters any."""
        joins, tables = [join for join, _ in _sources(select) if join], [source for _, source in _sources(select)]
        identified = [table for table in tables if isinstance(table, exp.Table) and _name(table) in self.identified]
        plain = all(isinstance(table, exp.Table) and _name(table) not in self.defined for table in tables)
        if self.whole or not plain or _inner_queries(select) or any(map(_loses_right, joins)):
            yield from map(_whole_table, identified)
        elif identified:
            parts = [select.args["from_"], *joins, select.args.get("where")]
            who = ", ".join(f'{_sql(exp.to_identifier(table.alias))}."{SUBJECT}"' for table in identified)
            yield f"SELECT list_value({who}) AS {WHO} " + " ".join(_sql(part) for part in parts if part)

    def _name(self) -> str:
        self.names += 1
        return f"source__{self.names}"


def _sources(select: exp.Expr) -> list[tuple[exp.Expr | None, exp.Expr]]:
    """Return join and source of each of a SELECT's sources; the first one has no join."""
    first = select.args.get("from_")
    return [*([(None, first.this)] if first else []), *((join, join.this) for join in select.args.get("joins") or ())]


def _loses_right(join: exp.Expr) -> bool:
    """Return whether a row of the join's result may have no row of the joined source."""
    return join.args.get("kind") in ("SEMI", "ANTI") or join.args.get("side") in ("LEFT", "FULL")


def _loses_left(join: exp.Expr) -> bool:
    """Return whether a row of the join's result may have no row of the sources before it."""
    return join.args.get("side") in ("RIGHT", "FULL")


def _shows_absence(tree: exp.Expr) -> bool:
    """Return whether a query may show a row because no identified row matches it."""
    joins = any(join.args.get("kind") == "ANTI" or join.args.get("side") for join in tree.find_all(exp.Join))
    return joins or tree.find(exp.Except) is not None or not all(map(_must_match, tree.find_all(exp.In)))


def _must_match(node: exp.In) -> bool:
    """Return whether IN has no subquery, or is a condition of its own in WHERE: only a row that matches is shown."""
    above = node.parent
    while isinstance(above, exp.And | exp.Paren):
        above = above.parent
    return not node.args.get("query") or isinstance(above, exp.Where)


def _union(queries: Collection[str]) -> str:
    """Return one query for the subjects that any of the queries finds; empty, if there are no queries."""
    every = " UNION ALL ".join(sorted(queries))
    return f"SELECT DISTINCT unnest({WHO}) AS {WHO} FROM ({every})" if every else ""  # noqa: S608


def _whole_table(table: exp.Expr) -> str:
    return f'SELECT list_value("{SUBJECT}") AS {WHO} FROM {_sql(table)}'  # noqa: S608


def _name(table: exp.Expr) -> str:
    """Return the name of a relation, or of the table function in its place."""
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


def _row_kind(select: exp.Expr) -> Literal["rows", "groups", "distinct", "compared"]:
    """Return what a row of a SELECT's result is: one row, a group, equal rows; or one that depends on other rows."""
    parts = [*select.expressions, *(select.args.get(name) for name in ("having", "qualify", "order"))]
    own = [node for part in parts if part for node in part.walk(prune=lambda node: isinstance(node, exp.Query))]
    distinct = select.args.get("distinct")
    grouped = bool(select.args.get("group")) or any(isinstance(node, exp.AggFunc) for node in own)
    # A group that HAVING leaves out is part of the answer too: it says that the group is smaller, for example.
    compares = any(isinstance(node, exp.Window) for node in own) or bool(select.args.get("having"))
    if compares or (distinct and (grouped or distinct.args.get("on"))):
        return "compared"
    return "groups" if grouped else "distinct" if distinct else "rows"


def _is_number(limit: exp.Expr) -> bool:
    """Return whether a LIMIT or OFFSET is a literal number. A computed one might fail, or not, by what rows hold."""
    return isinstance(limit.expression, exp.Literal) and limit.expression.is_number


def _fix_now(tree: exp.Expr) -> None:
    """Replace ``now()`` by the present moment, so that a query and its side query use the same one."""
    moment = f"CAST('{clock.now().isoformat()}' AS TIMESTAMPTZ)"
    for node in list(tree.find_all(exp.Anonymous)):
        if str(node.this).lower() == "now":
            node.replace(_parsed(moment))


def _parsed(sql: str) -> exp.Expr:
    return sqlglot.parse_one(sql, read="duckdb")


def _sql(node: exp.Expr) -> str:
    return node.sql(dialect="duckdb", identify=True, comments=False)
