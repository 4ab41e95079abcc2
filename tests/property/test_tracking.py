"""Whose rows an answer rests on: take anybody else's rows away, and it is the same answer.

An answer is its rows, whether there are more, and how it failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.query.errors import QueryRefused
from governance.query.sql import check
from governance.query.tracked_run import Run, TrackedAnswer, TrackedFailure, run_tracked
from governance.query.tracking import Tracked, track
from governance.query.worker import Head, bind, failed

NAMES = ("restricted_a", "restricted_b")
PUBLISHED = ("p",)
Row = tuple[bytes, int, int]
"""Subject, and two values."""

TABLES = st.lists(
    st.tuples(st.sampled_from([b"A", b"B", b"C", b"D"]), st.integers(0, 3), st.integers(0, 3)), max_size=6
)

CONDITIONS = st.sampled_from(
    ["true", "t.x > 1", "t.x IN (SELECT x FROM restricted_b)", "EXISTS (SELECT 1 FROM restricted_b WHERE y = 2)",
     "t.y NOT IN (SELECT y FROM p)", "t.x >= (SELECT min(y) FROM restricted_b)",
     "t.x IN (SELECT x FROM restricted_a UNION SELECT y FROM restricted_b)",
     "t.x IN (SELECT x FROM restricted_b ORDER BY y DESC, x LIMIT 1)", "t.x < 2",
     "CAST(CASE WHEN t.x = 3 THEN 'x' ELSE '1' END AS INTEGER) = 1",
     "t.x + CASE WHEN t.y = 3 THEN 9223372036854775807 ELSE 0 END > 1",
     "NOT (t.y * 1.5e308 * t.x > 1e300)"]
)  # fmt: skip
SOURCES = st.sampled_from(
    ["restricted_a AS t", "restricted_a_versions AS t", "p AS t", "(SELECT * FROM restricted_a WHERE y < 3) AS t",
     "restricted_a AS t JOIN restricted_b AS u USING (x)", "restricted_a AS t LEFT JOIN restricted_b AS u ON t.x = u.y",
     "p AS t SEMI JOIN restricted_b AS u ON t.x = u.x", "restricted_a AS t ANTI JOIN restricted_b AS u ON t.x = u.x",
     "c AS t", "c AS t JOIN restricted_b AS u ON t.x = u.x", "(SELECT x, y FROM c UNION ALL SELECT x, y FROM p) AS t",
     "(SELECT x, max(y) AS y FROM restricted_a GROUP BY ALL) AS t", "restricted_a AS t, p AS u",
     "(SELECT x, y FROM restricted_a INTERSECT SELECT y, x FROM restricted_b) AS t",
     "p AS u FULL JOIN (SELECT DISTINCT * FROM restricted_a) AS t ON t.x = u.x",
     "restricted_b AS u RIGHT JOIN p AS t ON t.x = u.x AND u.y = 1",
     "((SELECT x, y FROM restricted_a) ORDER BY x, y LIMIT 2 OFFSET 1) AS t",
     "restricted_a_as_known_at('2026-01-01') AS t",
     "(SELECT x, y FROM restricted_a ORDER BY y DESC, x LIMIT 2) AS t",
     "(SELECT x, y FROM restricted_a ORDER BY y DESC, x LIMIT 2) AS t JOIN restricted_b AS u ON t.x = u.x",
     "(SELECT x, y FROM (SELECT x, y FROM restricted_a ORDER BY x, y LIMIT 2) ORDER BY x DESC, y LIMIT 1) AS t",
     "(SELECT x, y FROM restricted_a UNION ALL SELECT x, y FROM p ORDER BY x, y LIMIT 2) AS t",
     "(SELECT * EXCLUDE (z) FROM (SELECT x, y, 1 AS z FROM restricted_a ORDER BY x, y LIMIT 3)) AS t",
     "(SELECT x, count(*) AS y FROM restricted_a GROUP BY x ORDER BY y, x LIMIT 1) AS t",
     "(SELECT 1 AS x, count(*) AS y FROM restricted_b WHERE x = 1 UNION ALL SELECT 2, 1) AS t",
     "(SELECT DISTINCT x, y FROM restricted_a ORDER BY x, y LIMIT 1) AS t",
     "(SELECT x, y FROM restricted_a UNION ALL BY NAME SELECT y, x, 1 AS z FROM restricted_b) AS t"]
)  # fmt: skip
OUTPUTS = st.sampled_from(
    ["t.x AS v", "t.*", "DISTINCT t.x AS v", "count(*) AS v", "t.y, sum(t.x) AS v", "DISTINCT t.x, count(*) AS v",
     "rank() OVER (ORDER BY t.x) AS v", "t.x AS v, (SELECT max(y) FROM restricted_b) AS w",
     "DISTINCT ON (t.x) t.x AS v"]
)  # fmt: skip
COMMONS = st.sampled_from(
    ["SELECT x, y FROM restricted_a", "SELECT * FROM p", "SELECT DISTINCT x, y FROM restricted_b",
     "SELECT x, y FROM restricted_a QUALIFY row_number() OVER (PARTITION BY x ORDER BY y, subject) = 1",
     "SELECT x, y FROM restricted_a UNION SELECT y, x FROM restricted_b",
     "SELECT x, y FROM restricted_a ORDER BY y, x DESC LIMIT 2",
     "SELECT y AS x, count(*) AS y FROM restricted_a GROUP BY ALL"]
)  # fmt: skip
ORDERS = {"t.x AS v": "1", "count(*) AS v": "1 DESC", "t.y, sum(t.x) AS v": "2, 1", "DISTINCT t.x AS v": "1 DESC",
          "DISTINCT t.x, count(*) AS v": "2, 1"}  # fmt: skip
"""Output → an order of all its rows. Without one it is any of them that a limit leaves, each time others."""

LIMITS = st.sampled_from(["", " LIMIT 1", " LIMIT 2", " LIMIT 2 OFFSET 1"])
EVERY = 1_000
COMBINED = st.sampled_from(
    [None, "UNION ALL SELECT x FROM p", "UNION SELECT y FROM restricted_b", "EXCEPT SELECT x FROM p"]
)


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, int]:
    """Return a query of every form that may be asked, and how many rows of its answer are shown at most."""
    output = draw(OUTPUTS)
    groups = " GROUP BY ALL" if output in ("t.y, sum(t.x) AS v", "DISTINCT t.x, count(*) AS v") else ""
    select = f"SELECT {output} FROM {draw(SOURCES)} WHERE {draw(CONDITIONS)}{groups}"  # noqa: S608
    combined = draw(COMBINED) if output in ("t.x AS v", "count(*) AS v") else None
    select = f"({select}) {combined}" if combined else select
    if output in ORDERS and draw(st.booleans()):
        limit = draw(LIMITS)
        select += f" ORDER BY {ORDERS[output]}{limit}"
        return f"WITH c AS ({draw(COMMONS)}) {select}", draw(st.sampled_from([1, 2, EVERY]))
    return f"WITH c AS ({draw(COMMONS)}) {select}", EVERY


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the relations that the query service has, without rows."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        for name in NAMES:
            connection.execute(f"CREATE TABLE {name} (subject BLOB, x INT, y INT)")
            connection.execute(f"CREATE VIEW {name}_versions AS SELECT * FROM {name}")  # noqa: S608
            connection.execute(f"CREATE MACRO {name}_as_known_at(m) AS TABLE SELECT * FROM {name}")  # noqa: S608
        connection.execute("CREATE TABLE p AS SELECT * FROM (VALUES (0, 1), (1, 2), (2, 0)) AS v(x, y)")
        yield connection


def engine(database: duckdb.DuckDBPyConnection, a: Sequence[Row], b: Sequence[Row]) -> Run:
    """Return what answers SQL over these rows, as the sandbox does."""
    for name, given_rows in zip(NAMES, (a, b), strict=True):
        database.execute(f"TRUNCATE {name}")
        if given_rows:
            values = ", ".join(f"('{who.decode()}'::BLOB, {x}, {y})" for who, x, y in given_rows)
            database.execute(f"INSERT INTO {name} VALUES {values}")  # noqa: S608

    def run(asked: str, most: int, beside: Sequence[str] | None = None) -> tuple[Head, pa.Table | None]:
        query = bind(database, asked, beside)
        if isinstance(query, Head):
            return query, None
        try:
            found = query.to_arrow_table()
        except duckdb.Error as error:
            return failed(error), None
        return Head(min(most, found.num_rows), found.num_rows > most), found.slice(0, most)

    return run


def ask(
    database: duckdb.DuckDBPyConnection, a: Sequence[Row], b: Sequence[Row], sql: str, rows: int = EVERY
) -> tuple[TrackedAnswer | TrackedFailure, TrackedAnswer | TrackedFailure]:
    """Return what the query service sees of a query that is tracked, and of it as it is, over these rows."""
    query, run = check(sql, [*NAMES, *PUBLISHED]), engine(database, a, b)
    read = [name for name in query.datasets if name in NAMES]
    plain = Tracked(query.sql, carried=False, side_query="", truncation_query="")
    return run_tracked(run, track(query.sql, NAMES), read, rows=rows), run_tracked(run, plain, read, rows=rows)


def said(seen: TrackedAnswer | TrackedFailure, sql: str) -> list[str]:
    """Return all that an answer says; its rows in their order, if it has one."""
    if isinstance(seen, TrackedFailure):
        return [str(seen.error)]
    rows = [repr(tuple(row.values())) for row in seen.rows.to_pylist()]
    return [*(rows if "ORDER BY" in sql.rsplit(")", 1)[-1] else sorted(rows)), f"more: {seen.more}"]


def told(
    database: duckdb.DuckDBPyConnection, a: Sequence[Row], b: Sequence[Row], sql: str, rows: int = EVERY
) -> set[bytes | None]:
    """Return whose rows an answer is said to rest on; that it is tracked changes nothing of it."""
    seen, plain = ask(database, a, b, sql, rows)
    assert isinstance(seen, TrackedAnswer)
    assert said(seen, sql) == said(plain, sql)
    return seen.subjects


@given(TABLES, TABLES, questions(), st.data())
@settings(max_examples=max(60, settings().max_examples))
def test_an_answer_is_the_same_without_anybody_who_is_not_told(
    database: duckdb.DuckDBPyConnection, a: list[Row], b: list[Row], question: tuple[str, int], data: st.DataObject
) -> None:
    sql, rows = question
    seen, plain = ask(database, a, b, sql, rows)
    assert isinstance(seen, TrackedFailure) or said(seen, sql) == said(plain, sql)
    assert seen.subjects is not None
    others = sorted({row[0] for row in (*a, *b)} - seen.subjects)
    for gone in ({data.draw(st.sampled_from(others))}, {*others}) if others else ():
        left_a, left_b = ([row for row in table if row[0] not in gone] for table in (a, b))
        again, _ = ask(database, left_a, left_b, sql, rows)
        assert said(again, sql) == said(seen, sql)


@pytest.mark.parametrize(
    ("sql", "who"),
    [
        ("SELECT x FROM restricted_a WHERE x = 1", {b"A"}),
        ("SELECT a.x FROM restricted_a a JOIN restricted_b b USING (x)", {b"A", b"C"}),
        ("SELECT x FROM restricted_a ORDER BY x DESC LIMIT 1", {b"B"}),
        ("WITH c AS (SELECT * FROM restricted_a) SELECT x FROM c WHERE x = 1", {b"A"}),
        ("SELECT x FROM (SELECT * FROM restricted_a) WHERE x = 1", {b"A"}),
        ("SELECT DISTINCT x FROM restricted_a WHERE x = 1", {b"A"}),
        ("SELECT DISTINCT x FROM restricted_a ORDER BY x LIMIT 1", {b"A"}),
        ("SELECT x FROM (SELECT x FROM restricted_a ORDER BY x LIMIT 1) UNION ALL SELECT x FROM p", {b"A"}),
        ("SELECT avg(x) FROM (SELECT x FROM restricted_a ORDER BY x LIMIT 1)", {b"A"}),
        ("SELECT x FROM restricted_a WHERE x = 1 UNION ALL SELECT x FROM restricted_b WHERE x = 9", {b"A"}),
        ("SELECT x FROM restricted_a WHERE x = 1 AND now() > TIMESTAMPTZ '2020-01-01'", {b"A"}),
        ("(SELECT x FROM restricted_a WHERE x = 1) LIMIT 5", {b"A"}),
        ("SELECT x FROM p", set()),
        ("SELECT x FROM p UNION ALL SELECT y FROM p", set()),
        ("SELECT x FROM p WHERE x IN (SELECT x FROM p)", set()),
        ("SELECT x FROM p EXCEPT SELECT x FROM p", set()),
        ("SELECT 1 AS one", set()),
        ("SELECT p.x FROM p SEMI JOIN restricted_b AS b ON p.x = b.x", {b"C"}),
        ("SELECT a.x FROM restricted_a AS a ANTI JOIN restricted_b AS b USING (x)", {b"B", b"C"}),
        ("WITH c AS (SELECT * FROM restricted_b) SELECT p.x FROM p SEMI JOIN c USING (x)", {b"C"}),
        ("SELECT count(*) FROM restricted_a", {b"A", b"B"}),
        ("SELECT x FROM (SELECT x FROM restricted_a UNION SELECT x FROM p) UNION ALL SELECT x FROM p", {b"A", b"B"}),
        ("(SELECT x FROM restricted_b UNION SELECT x FROM p) UNION ALL SELECT x FROM restricted_a WHERE x = 1",
         {b"A", b"C"}),
        ("SELECT rank() OVER (ORDER BY x) FROM restricted_a WHERE x = 1", {b"A"}),
        ("WITH c AS (SELECT x FROM restricted_a) "
         "SELECT x FROM p WHERE x IN (WITH d AS (SELECT * FROM c) SELECT * FROM d)", {b"A", b"B"}),
        ("SELECT x FROM p WHERE p.y > 0 AND (x IN (SELECT x FROM restricted_a WHERE x = 1))", {b"A"}),
        ("SELECT x FROM p WHERE x IN (1, 2)", set()),
        ("SELECT x FROM (SELECT DISTINCT x FROM restricted_a) WHERE x = 1", {b"A"}),
        ("SELECT x FROM p ORDER BY (SELECT count(*) FROM restricted_b WHERE x = 1)", {b"C"}),
    ],
)  # fmt: skip
def test_no_more_are_told_than_need_be(database: duckdb.DuckDBPyConnection, sql: str, who: set[bytes]) -> None:
    assert told(database, [(b"A", 1, 1), (b"B", 2, 2)], [(b"C", 1, 1)], sql) == who


@pytest.mark.parametrize(
    ("sql", "who"),
    [
        ("SELECT p.x FROM p LEFT JOIN restricted_a AS a ON p.x = a.x AND a.y > 7 WHERE a.x IS NULL", {b"A", b"B"}),
        ("SELECT p.x FROM restricted_a AS a RIGHT JOIN p ON p.x = a.x AND a.y > 7 WHERE a.x IS NULL", {b"A", b"B"}),
        ("SELECT p.x FROM p FULL JOIN restricted_a AS a ON p.x = a.x AND a.y > 7 WHERE a.x IS NULL", {b"A", b"B"}),
        ("SELECT p.x FROM restricted_a AS a FULL JOIN p ON p.x = a.x AND a.y > 7 WHERE a.x IS NULL", {b"A", b"B"}),
        ("SELECT p.x FROM p LEFT JOIN (SELECT x FROM restricted_a WHERE y > 7) AS a USING (x)", {b"A", b"B"}),
        ("WITH c AS (SELECT x FROM restricted_a WHERE y > 7) SELECT p.x FROM p LEFT JOIN c USING (x)", {b"A", b"B"}),
        ("SELECT count(*) FROM (SELECT p.x FROM p LEFT JOIN restricted_a AS a ON a.y > 7 UNION SELECT 1)",
         {b"A", b"B"}),
        ("SELECT p.x FROM p ANTI JOIN (SELECT x FROM restricted_a WHERE y > 7) AS a USING (x)", {b"A", b"B"}),
        ("SELECT x FROM p WHERE x NOT IN (SELECT x FROM restricted_a WHERE y > 7)", {b"A", b"B"}),
        ("SELECT x IN (SELECT x FROM restricted_a WHERE y > 7) FROM p", {b"A", b"B"}),
        ("SELECT x FROM p EXCEPT SELECT x FROM restricted_a WHERE y > 7", {b"A", b"B"}),
        ("SELECT 'x' FROM (SELECT max(y) AS m FROM restricted_a) AS t WHERE t.m > 7", {b"A", b"B"}),
        ("WITH c AS (SELECT max(y) AS m FROM restricted_a) SELECT p.x FROM p JOIN c ON c.m > 7", {b"A", b"B"}),
        ("SELECT x FROM restricted_a LIMIT 1 OFFSET 5", {b"A", b"B"}),
        ("(SELECT x FROM restricted_a) OFFSET 5", {b"A", b"B"}),
        ("SELECT x, count(*) FROM restricted_a GROUP BY x ORDER BY count(*), x LIMIT 1", {b"A", b"B"}),
        ("SELECT g FROM (SELECT 1 AS g, count(*) AS n FROM restricted_b WHERE x = 1 UNION ALL SELECT 0, 0.5) "
         "ORDER BY n LIMIT 1", {b"C"}),
        ("SELECT count(*) FROM (SELECT v FROM (SELECT 0 AS v FROM restricted_b WHERE x = 1 UNION ALL SELECT 1 "
         "UNION ALL SELECT 2) ORDER BY v LIMIT 2) WHERE v > 0", {b"C"}),
        ("WITH c AS (SELECT x FROM restricted_a ORDER BY x LIMIT 1) SELECT c.x FROM c JOIN p ON c.x > p.x + 7",
         {b"A", b"B"}),
        ("SELECT x FROM (SELECT x FROM restricted_a ORDER BY x LIMIT 2) ORDER BY x DESC LIMIT 1", {b"A", b"B"}),
        ("(SELECT x FROM (SELECT x FROM restricted_a ORDER BY x LIMIT 2)) ORDER BY x DESC LIMIT 1", {b"A", b"B"}),
        ("SELECT x FROM restricted_a UNION ALL SELECT x FROM p OFFSET 9", {b"A", b"B"}),
        ("SELECT x FROM ((SELECT x FROM restricted_a) OFFSET 5) AS t", {b"A", b"B"}),
    ],
)  # fmt: skip
def test_who_does_not_match_is_told(database: duckdb.DuckDBPyConnection, sql: str, who: set[bytes]) -> None:
    """Nobody's row is shown, and that says something about everybody."""
    assert told(database, [(b"A", 1, 1), (b"B", 2, 2)], [(b"C", 1, 1)], sql) == who


COUNT = "(SELECT count(*) FROM restricted_a WHERE x = 1)"


@pytest.mark.parametrize(
    "sql",
    [
        "(SELECT x FROM p) LIMIT N",
        "(SELECT x FROM p) OFFSET N",
        "(SELECT x FROM p) ORDER BY N",
        "((SELECT x FROM p)) LIMIT N",
        "SELECT x FROM p UNION ALL SELECT y FROM p LIMIT N",
        "SELECT x FROM p UNION ALL SELECT y FROM p OFFSET N",
        "SELECT x FROM p UNION SELECT y FROM p ORDER BY N",
        "(SELECT x FROM p EXCEPT SELECT y FROM p) ORDER BY CASE WHEN N > 0 THEN 1 END",
        "WITH c AS ((SELECT x FROM p) LIMIT N) SELECT count(*) FROM c",
        "SELECT * FROM ((SELECT x FROM p UNION ALL SELECT 1) LIMIT N)",
        "SELECT x FROM p WHERE x IN ((SELECT x FROM p) LIMIT N)",
        "SELECT 1 FROM ((SELECT 1) AS t JOIN restricted_a ON true)",
        "SELECT 1 FROM p JOIN p AS q JOIN restricted_a AS a ON q.x = a.x ON p.x = q.x",
        "SELECT x FROM p LIMIT N",
        "SELECT x FROM restricted_a OFFSET N",
        "SELECT x FROM p LIMIT 1 + 1",
        "SELECT x FROM p LIMIT '1'",
        "SELECT x FROM (SELECT x FROM p LIMIT (SELECT 9223372036854775807 FROM restricted_a WHERE x = 1)) AS t",
        "SELECT who__ FROM restricted_a",
        "SELECT a.x FROM restricted_a AS a(x, y, subject)",
        "SELECT t.x FROM (restricted_a JOIN restricted_b USING (x)) AS t",
    ],
)
def test_what_cannot_be_told_is_refused(sql: str) -> None:
    checked = check(sql.replace(" N", f" {COUNT}"), [*NAMES, *PUBLISHED])
    with pytest.raises(QueryRefused):
        track(checked.sql, NAMES)


@pytest.mark.parametrize(
    ("sql", "who"),
    [
        ("SELECT 1 AS v UNION ALL SELECT 2 FROM restricted_a WHERE x = 1 ORDER BY 1", {b"A"}),
        ("SELECT x FROM restricted_a ORDER BY x", {b"A", b"B"}),
        ("SELECT x FROM restricted_a UNION ALL SELECT x + 9 FROM restricted_b ORDER BY 1", {b"A", b"B"}),
        ("SELECT x FROM restricted_a WHERE x = 1", {b"A"}),
        ("SELECT x, count(*) FROM restricted_b WHERE x = 1 GROUP BY x UNION ALL SELECT 0, 0 ORDER BY 1", {b"C"}),
        ("SELECT x, count(*) FROM restricted_a GROUP BY x UNION ALL SELECT x + 9, 0 FROM restricted_b ORDER BY 1",
         {b"A", b"B", b"C"}),
    ],
)  # fmt: skip
def test_that_there_are_more_rows_is_part_of_an_answer(
    database: duckdb.DuckDBPyConnection, sql: str, who: set[bytes]
) -> None:
    """Shown is one; another one, though nobody sees it, tells that there are more. Groups tell it together."""
    assert told(database, [(b"A", 1, 1), (b"B", 2, 2)], [(b"C", 1, 1)], sql, rows=1) == who


def test_columns_by_name_may_come_after_the_one_that_tells(database: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT x FROM restricted_a UNION ALL BY NAME SELECT y FROM restricted_b"
    assert told(database, [(b"A", 1, 1)], [(b"C", 1, 1)], sql) == {b"A", b"C"}


@pytest.mark.parametrize(
    ("star", "columns"),
    [
        ("* EXCLUDE (x)", ["y"]),
        ("t.* EXCLUDE (x)", ["y"]),
        ("* EXCLUDE x REPLACE (7 AS y)", ["y"]),
        ("* RENAME (x AS z)", ["z", "y"]),
        ("*", ["x", "y"]),
    ],
)
def test_what_a_star_leaves_out_stays_out_of_what_is_derived(
    database: duckdb.DuckDBPyConnection, star: str, columns: list[str]
) -> None:
    seen, _ = ask(database, [(b"A", 1, 1)], [], f"SELECT {star} FROM (SELECT x, y FROM restricted_a) AS t")  # noqa: S608
    assert isinstance(seen, TrackedAnswer)
    assert seen.rows.column_names == columns
    assert seen.subjects == {b"A"}


CAST = "CAST(CASE WHEN x = 1 THEN 'x' ELSE '1' END AS INTEGER)"


@pytest.mark.parametrize(
    ("sql", "outcome"),
    [
        (f"SELECT x FROM restricted_a WHERE {CAST} = 1", "cast"),  # noqa: S608
        (f"SELECT count(*) OVER () FROM restricted_a WHERE {CAST} = 1 LIMIT 0", "untold"),  # noqa: S608
        (f"SELECT n FROM (SELECT count(*) OVER () AS n FROM restricted_a WHERE {CAST} = 1) WHERE false",  # noqa: S608
         "untold"),
        ("SELECT (SELECT x FROM restricted_a) AS v", "failed"),
    ],
)  # fmt: skip
def test_a_failure_rests_on_everybody_who_could_be_read(
    database: duckdb.DuckDBPyConnection, sql: str, outcome: str
) -> None:
    seen, _ = ask(database, [(b"A", 1, 1), (b"B", 2, 2)], [(b"C", 1, 1)], sql)
    assert isinstance(seen, TrackedFailure)
    assert (seen.outcome, seen.subjects) == (outcome, {b"A", b"B"})


BINDS_LATE = "SELECT subject AS who__ FROM restricted_a LIMIT (SELECT 9223372036854775807 FROM restricted_b)"
"""DuckDB has the same error for this, while it reads rows, as for a name that it does not know. It may not be asked;
nothing relies on that."""


@pytest.mark.parametrize(
    ("tracked", "outcome"),
    [
        (Tracked(BINDS_LATE, carried=False, side_query="", truncation_query=""), "names"),
        (Tracked("SELECT 1 AS one", carried=False, side_query=BINDS_LATE, truncation_query=""), "untold"),
    ],
)
def test_an_error_of_names_that_comes_while_rows_are_read_rests_on_them(
    database: duckdb.DuckDBPyConnection, tracked: Tracked, outcome: str
) -> None:
    run = engine(database, [(b"A", 1, 1)], [(b"C", 1, 1)])
    seen = run_tracked(run, tracked, NAMES, rows=EVERY)
    assert isinstance(seen, TrackedFailure)
    assert (seen.outcome, seen.subjects, seen.unread) == (outcome, {b"A", b"C"}, False)
    assert "names" not in str(seen.error)
    assert isinstance(run_tracked(engine(database, [(b"A", 1, 1)], []), tracked, NAMES, rows=EVERY), TrackedAnswer)
