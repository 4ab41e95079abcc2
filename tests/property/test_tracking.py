"""Whose rows an answer rests on: take everybody else's rows away, and it is still the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.door.errors import QueryRefused
from governance.door.sql import check
from governance.door.tracking import track

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
     "t.x IN (SELECT x FROM restricted_a UNION SELECT y FROM restricted_b)"]
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
     "restricted_a_as_known_at('2026-01-01') AS t"]
)  # fmt: skip
OUTPUTS = st.sampled_from(
    ["t.x AS v", "t.*", "DISTINCT t.x AS v", "count(*) AS v", "t.y, sum(t.x) AS v", "DISTINCT t.x, count(*) AS v",
     "rank() OVER (ORDER BY t.x) AS v", "t.x AS v, (SELECT max(y) FROM restricted_b) AS w",
     "DISTINCT ON (t.x) t.x AS v"]
)  # fmt: skip
COMMONS = st.sampled_from(
    ["SELECT x, y FROM restricted_a", "SELECT * FROM p", "SELECT DISTINCT x, y FROM restricted_b",
     "SELECT x, y FROM restricted_a QUALIFY row_number() OVER (PARTITION BY x ORDER BY y, subject) = 1",
     "SELECT x, y FROM restricted_a UNION SELECT y, x FROM restricted_b"]
)  # fmt: skip
ENDS = st.sampled_from(["", " ORDER BY ALL LIMIT 2"])
COMBINED = st.sampled_from(
    [None, "UNION ALL SELECT x FROM p", "UNION SELECT y FROM restricted_b", "EXCEPT SELECT x FROM p"]
)


@st.composite
def queries(draw: st.DrawFn) -> str:
    """Return a query of every form that may be asked."""
    output = draw(OUTPUTS)
    groups = " GROUP BY ALL" if output in ("t.y, sum(t.x) AS v", "DISTINCT t.x, count(*) AS v") else ""
    select = f"SELECT {output} FROM {draw(SOURCES)} WHERE {draw(CONDITIONS)}{groups}"  # noqa: S608
    combined = draw(COMBINED)
    if combined and output in ("t.x AS v", "count(*) AS v"):
        select = f"({select}) {combined}"
    ends = ["", " ORDER BY 1 LIMIT 2", " ORDER BY 1 LIMIT 2 OFFSET 1"]
    end = draw(st.sampled_from(ends)) if output == "t.x AS v" else ""
    return f"WITH c AS ({draw(COMMONS)}) {select}{end}"


def database(a: Sequence[Row], b: Sequence[Row]) -> Any:
    """Return a database with these rows, as the door has them."""
    connection = duckdb.connect(":memory:")
    for name, rows in (("restricted_a", a), ("restricted_b", b)):
        connection.execute(f"CREATE TABLE {name} (subject BLOB, x INT, y INT)")
        if rows:
            connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?)", rows)  # noqa: S608
        connection.execute(f"CREATE VIEW {name}_versions AS SELECT * FROM {name}")  # noqa: S608
        connection.execute(f"CREATE MACRO {name}_as_known_at(m) AS TABLE SELECT * FROM {name}")  # noqa: S608
    connection.execute("CREATE TABLE p AS SELECT * FROM (VALUES (0, 1), (1, 2), (2, 0)) AS v(x, y)")
    return connection


def answer(a: Sequence[Row], b: Sequence[Row], sql: str) -> tuple[list[Any], set[bytes]]:
    """Return an answer, and whose rows it is said to rest on."""
    connection = database(a, b)
    tracked = track(check(sql, [*NAMES, *PUBLISHED]).sql, NAMES)
    rows = connection.execute(tracked.sql).fetchall()
    plain = connection.execute(check(sql, [*NAMES, *PUBLISHED]).sql).fetchall()
    shown = [row[:-1] for row in rows] if tracked.carried else rows
    assert sorted(map(repr, shown)) == sorted(map(repr, plain))  # tracking changes no answer
    who = {subject for row in rows for subject in row[-1] or ()} if tracked.carried else set()
    asked = connection.execute(tracked.aside).fetchall() if tracked.aside else []
    return sorted(map(repr, shown)), {subject for subject in who | {row[0] for row in asked} if subject is not None}


@given(TABLES, TABLES, queries())
def test_an_answer_rests_on_nobody_who_is_not_told(a: list[Row], b: list[Row], sql: str) -> None:
    found, told = answer(a, b, sql)
    again, _ = answer([row for row in a if row[0] in told], [row for row in b if row[0] in told], sql)
    assert again == found


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT x FROM restricted_a WHERE x = 1", {b"A"}),
        ("SELECT a.x FROM restricted_a a JOIN restricted_b b USING (x)", {b"A", b"C"}),
        ("SELECT x FROM restricted_a ORDER BY x DESC LIMIT 1", {b"B"}),
        ("WITH c AS (SELECT * FROM restricted_a) SELECT x FROM c WHERE x = 1", {b"A"}),
        ("SELECT x FROM (SELECT * FROM restricted_a) WHERE x = 1", {b"A"}),
        ("SELECT DISTINCT x FROM restricted_a WHERE x = 1", {b"A"}),
        ("SELECT x, count(*) FROM restricted_a GROUP BY x ORDER BY x LIMIT 1", {b"A"}),
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
        ("SELECT x FROM restricted_a ORDER BY x LIMIT (SELECT count(*) FROM restricted_b WHERE x > 7)", set()),
        ("SELECT x FROM p LIMIT (SELECT count(*) FROM restricted_b WHERE x = 1)", {b"C"}),
        ("SELECT x FROM p ORDER BY (SELECT count(*) FROM restricted_b WHERE x = 1)", {b"C"}),
    ],
)  # fmt: skip
def test_no_more_are_told_than_need_be(sql: str, told: set[bytes]) -> None:
    assert answer([(b"A", 1, 1), (b"B", 2, 2)], [(b"C", 1, 1)], sql)[1] == told


@pytest.mark.parametrize(
    ("sql", "told"),
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
        ("SELECT x FROM restricted_a UNION ALL SELECT x FROM p OFFSET 9", {b"A", b"B"}),
        ("SELECT x FROM ((SELECT x FROM restricted_a) OFFSET 5) AS t", {b"A", b"B"}),
    ],
)  # fmt: skip
def test_who_does_not_match_is_told(sql: str, told: set[bytes]) -> None:
    """Nobody's row is shown, and that says something about everybody."""
    assert answer([(b"A", 1, 1), (b"B", 2, 2)], [(b"C", 1, 1)], sql)[1] == told


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
        "SELECT who__ FROM restricted_a",
        "SELECT a.x FROM restricted_a AS a(x, y, subject)",
        "SELECT t.x FROM (restricted_a JOIN restricted_b USING (x)) AS t",
    ],
)
def test_what_cannot_be_told_is_refused(sql: str) -> None:
    checked = check(sql.replace(" N", f" {COUNT}"), [*NAMES, *PUBLISHED])
    with pytest.raises(QueryRefused):
        track(checked.sql, NAMES)
