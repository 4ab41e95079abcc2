"""Whom a question names: what it says of them, also by finding nothing, is on record; no other way chooses somebody."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.query.errors import QueryRefused
from governance.query.naming import Columns, constants
from governance.query.sql import check
from governance.query.tracked_run import run_tracked
from governance.query.tracking import track
from tests.property.test_tracking import NAMES, PUBLISHED, TABLES, Row, database, engine, said

__all__ = ["database"]

IDENTIFYING, PEOPLE = {"subject", "patient_id", "encounter_id", "name"}, {"subject", "patient_id"}
TEXTS = {"patient_id", "encounter_id", "name"}

CHOICES = st.sampled_from(
    ["hex(t.subject) = '41'", "t.subject = 'A'", "'A' = t.subject", "(lower(hex(t.subject))) IN ('41')",
     "hex(t.subject) IS NOT DISTINCT FROM '41'", "t.subject IN ('A', 'E')", "t.h = '41'", "upper(t.h) = '41'",
     "upper(lower(t.h)) = '41'", "lower(t.h) IN ('41', '42')", "t.h = upper('41')",
     # What follows chooses A without a name of theirs, and is refused.
     "hex(t.subject) LIKE '41%'", "hex(t.subject) = '4' || '1'", "hex(t.subject) = CAST(41 AS VARCHAR)",
     "starts_with(hex(t.subject), '4') AND t.h < '42'", "hex(t.subject) NOT IN ('42', '43', '44')",
     "NOT (t.subject = 'B' OR t.subject = 'C' OR t.subject = 'D')", "t.subject < 'B'", "t.h BETWEEN '40' AND '41'",
     "substring(t.h, 2, 1) = '1'", "(t.h = '42') IS DISTINCT FROM true AND t.h < '43'", "t.x || t.h = t.x || '41'",
     "CASE WHEN t.h = '41' THEN t.x ELSE NULL END IS NOT NULL", "length(t.h || '41') = 4 AND least(t.h, '41') = t.h",
     "coalesce(t.h, '') = '41'", "(t.h, 1) = ('41', 1)", "t.h IN (SELECT substring('41', 1, 2))",
     "t.h = (SELECT '41')", "(t.h IN ('42', '43', '44')) = false", "t.h <> '42' AND t.h <> '43' AND t.h <> '44'",
     "hex(hex(t.subject)) = '3431'", "hex(t.h) = '3431'", "upper(hex(lower(t.h))) IN ('3431')", "hex(t.subject) = 41",
     "t.h IN (41, 0)", "hex(hex(t.h)) = '33343331'", "hex(t.x) = '3' OR hex(t.h) = '3431'",
     "t.h = '\\x34\\x31'", "t.h = '4\\x31'"]
)  # fmt: skip
QUESTIONS = st.sampled_from(
    ["SELECT t.x FROM {t} WHERE {c} AND t.y > 1", "SELECT count(*) AS n FROM {t} WHERE {c} AND t.y > 1",
     "SELECT 1 AS one WHERE NOT EXISTS (SELECT 1 FROM {t} WHERE {c} AND t.y > 1)",
     "SELECT (SELECT max(t.x) FROM {t} WHERE {c} AND t.y > 1) IS NULL AS n",
     "SELECT coalesce((SELECT min(t.y) FROM {t} WHERE t.y > 1 AND {c}), 7) AS n",
     "SELECT p.x FROM p JOIN {t} ON {c} AND t.y > 1", "SELECT p.x FROM p SEMI JOIN {t} ON {c} AND t.x = p.x",
     "SELECT sum(t.x) FILTER (WHERE {c}) AS n FROM {t} WHERE t.y > 1 AND {c}",
     "SELECT n FROM (SELECT count(*) AS n FROM {t} WHERE {c} AND t.y > 1) AS u WHERE n = 0",
     "SELECT p.x FROM p WHERE p.x NOT IN (SELECT t.y FROM {t} WHERE {c})"]
)  # fmt: skip
SOURCES = st.sampled_from(
    ["(SELECT subject, hex(subject) AS h, x, y FROM restricted_a) AS t",
     "(SELECT *, hex(subject) AS h FROM restricted_a_versions) AS t",
     "(SELECT NULL AS subject, NULL AS h, 1 AS x, 2 AS y UNION ALL SELECT subject, hex(subject), x, y "
     "FROM restricted_a) AS t",
     "(SELECT subject, subject AS h, x, y FROM restricted_a WHERE false UNION ALL SELECT subject, hex(subject), x, y "
     "FROM restricted_a) AS t",
     "(SELECT a.subject, hex(b.subject) AS h, a.x, b.y FROM restricted_a a JOIN restricted_a b USING (subject)) AS t",
     # Names that DuckDB makes, and values that are of no column by their form.
     "(SELECT subject, subject_1 AS h, x, y FROM (SELECT subject, hex(subject) AS subject, x, y FROM restricted_a)) t",
     "(SELECT subject, hex(mode() WITHIN GROUP (ORDER BY subject)) AS h, x, y FROM restricted_a GROUP BY ALL) AS t",
     "(SELECT subject, hex(max(DISTINCT subject)) AS h, x, y FROM restricted_a GROUP BY ALL) AS t"]
)  # fmt: skip


@given(TABLES, TABLES, CHOICES, QUESTIONS, SOURCES)
@settings(max_examples=max(80, settings().max_examples))
def test_what_a_question_about_somebody_says_of_them_is_refused_or_on_record(
    database: duckdb.DuckDBPyConnection, rows: list[Row], others: list[Row], choice: str, question: str, source: str
) -> None:
    """However A's rows differ: if the answer does, A is told, or named."""
    query = check(question.format(t=source, c=choice), [*NAMES, *PUBLISHED])
    try:
        tracked, named = track(query.sql, NAMES), said_names(query.sql)
    except QueryRefused:
        return
    seen, again = (
        run_tracked(engine(database, table, []), tracked, NAMES[:1], rows=100)
        for table in (rows, [row for row in rows if row[0] != b"A"] + [row for row in others if row[0] == b"A"])
    )
    if said(seen, question) != said(again, question):
        assert {"A", "41"} & named or all(b"A" in (one.subjects or {b"A"}) for one in (seen, again))


def names(sql: str) -> frozenset[str]:
    """Return the constants of a question over a table that has all that identifies."""
    return said_names(check(sql, [*NAMES, *PUBLISHED]).sql)


def said_names(sql: str) -> frozenset[str]:
    """Return the constants of a query that was checked."""
    return constants(
        sql, Columns({*IDENTIFYING, "x", "y"}, IDENTIFYING, PEOPLE, TEXTS, {"encounter_id", "name"}, {"name"})
    )


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT x FROM restricted_a WHERE subject = 'A'", {"A"}),
        ("SELECT x FROM restricted_a WHERE x = 1 OR (y = 2 AND hex(subject) IN ('41', '42'))", {"41", "42"}),
        ("SELECT h FROM (SELECT lower(hex(subject)) AS h FROM restricted_a) AS t WHERE upper(h) = '41'", {"41"}),
        ("SELECT x FROM p WHERE upper(patient_id) = 'V1.A' OR lower(patient_id) = 'v1.b'", {"V1.A", "v1.b"}),
        ("SELECT hex(subject) AS subject, hex(hex(name)) AS n FROM restricted_a WHERE x = 1", set()),
        ("SELECT a.name, b.encounter_id FROM restricted_a AS a JOIN restricted_b AS b ON a.subject = b.subject", set()),
        ("SELECT subject, count(DISTINCT encounter_id) AS n FROM restricted_a GROUP BY subject ORDER BY n", set()),
        ("SELECT DISTINCT ON (subject, x) last(name) OVER (PARTITION BY subject ORDER BY x) AS n FROM restricted_a",
         set()),
        ("SELECT encounter_id FROM restricted_a GROUP BY (encounter_id, subject) HAVING count(*) > 1 ORDER BY subject",
         set()),
        ("SELECT a.*, b.*, a.subject FROM restricted_a AS a JOIN restricted_b AS b USING (encounter_id)", set()),
        ("SELECT s, n FROM (SELECT a.*, subject AS s, rank() OVER (ORDER BY x) AS n FROM restricted_a a, p) t "
         "WHERE s = 'A'", {"A"}),
        ("SELECT who FROM (SELECT * RENAME (subject AS who) FROM restricted_a) AS t "
         "WHERE who = 'A'", {"A"}),
        ("SELECT x, any_value(name) AS m FROM restricted_a GROUP BY ALL ORDER BY x", set()),
        ("SELECT subject, x FROM restricted_a GROUP BY 1, 2 ORDER BY 2", set()),
        ("SELECT DISTINCT subject, encounter_id FROM restricted_a UNION SELECT subject, encounter_id FROM restricted_b",
         set()),
        ("SELECT x FROM restricted_a WHERE name IS NOT NULL AND subject IN (SELECT b.subject FROM restricted_b AS b)",
         set()),
        ("SELECT subject AS s FROM restricted_a UNION ALL SELECT b.subject FROM restricted_b AS b", set()),
        ("SELECT x AS v FROM restricted_a UNION (SELECT y FROM restricted_b EXCEPT SELECT x FROM p)", set()),
        ("SELECT subject, x FROM restricted_a UNION ALL SELECT NULL, 1", set()),
        ("SELECT * RENAME (subject AS who) FROM restricted_a UNION ALL BY NAME SELECT x FROM p", set()),
        ("SELECT x FROM p WHERE EXISTS (SELECT * FROM restricted_a WHERE subject = 'A')", {"A"}),
        ("SELECT x FROM p WHERE y IN (SELECT x FROM restricted_a UNION SELECT y FROM restricted_b)", set()),
        ("SELECT arg_max(name, x) FILTER (WHERE x > 1) AS n FROM restricted_a", set()),
        ("SELECT s FROM (SELECT subject AS s FROM restricted_a UNION ALL SELECT hex(subject) FROM restricted_a) AS t "
         "WHERE s = '4\\x31'", {"4\\x31", "41"}),
        ("SELECT (SELECT max(x) FROM restricted_a) + 1 AS n FROM p", set()),
        ("SELECT x FROM p JOIN restricted_a USING (x) QUALIFY row_number() OVER () = 1 AND subject = 'A'", {"A"}),
    ],
)  # fmt: skip
def test_what_may_be_asked_names_those_in_its_constants(sql: str, said: set[str]) -> None:
    assert names(sql) == said


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT x FROM restricted_a WHERE subject LIKE 'A%'",
        "SELECT x FROM restricted_a WHERE encounter_id = 'E'",
        "SELECT x FROM restricted_a WHERE subject = x",
        "SELECT x FROM restricted_a WHERE hex(subject) = 41",
        "SELECT x FROM restricted_a WHERE hex(hex(subject)) = '3431'",
        "SELECT x FROM restricted_a WHERE hex(lower(hex(subject))) = '3431'",
        "SELECT x FROM p WHERE hex(patient_id) = '3431'",
        "SELECT x FROM p WHERE lower(hex(upper(patient_id))) IN ('3431')",
        "SELECT x FROM (SELECT x, hex(max(subject)) AS h FROM restricted_a GROUP BY x) AS t WHERE hex(h) = '3431'",
        "SELECT x FROM (SELECT x, hex(hex(subject)) AS h FROM restricted_a) AS t WHERE h = '3431'",
        "SELECT x FROM (SELECT hex(s) AS h FROM (SELECT hex(subject) AS s FROM restricted_a)) AS t WHERE h = '3431'",
        "SELECT x FROM (SELECT hex(subject) AS subject FROM restricted_a) AS t WHERE hex(subject) = '3431'",
        "SELECT t.x FROM (SELECT subject AS s, x FROM restricted_a UNION ALL SELECT hex(subject), x FROM restricted_a) "
        "t WHERE hex(t.s) = '3431'",
        "SELECT 1 AS one FROM (SELECT subject FROM restricted_a UNION (SELECT subject FROM restricted_a EXCEPT "
        "SELECT patient_id FROM p)) AS t WHERE hex(t.subject) = '3431'",
        "SELECT 1 AS one FROM (SELECT s AS t FROM (SELECT subject AS s FROM restricted_a INTERSECT "
        "SELECT lower(hex(subject)) FROM restricted_a)) WHERE hex(t) = '3431'",
        "SELECT x FROM restricted_a WHERE subject <> 'A'",
        "SELECT x FROM restricted_a WHERE NOT subject = 'A'",
        "SELECT subject = 'A' AS me FROM restricted_a",
        "SELECT x FROM restricted_a WHERE 'A' IN (subject, name)",
        "SELECT x FROM restricted_a WHERE subject IN (SELECT x FROM p)",
        "SELECT x FROM restricted_a WHERE x IN (SELECT subject FROM restricted_b)",
        "SELECT x FROM restricted_a WHERE subject IN (SELECT * FROM restricted_b)",
        "SELECT x FROM restricted_a WHERE (SELECT max(hex(b.subject)) FROM restricted_b AS b) LIKE '4%'",
        "SELECT x FROM restricted_a WHERE (SELECT b.* FROM restricted_b AS b) IS NULL",
        "SELECT lag(subject, 1, 'A') OVER () AS s FROM restricted_a",
        "SELECT arg_max(x, subject) AS v FROM restricted_a",
        "SELECT coalesce(subject, 'A') AS v FROM restricted_a",
        "SELECT CAST(name AS VARCHAR) AS v FROM restricted_a",
        "SELECT hex(name.sealed) AS v FROM restricted_a",
        "SELECT a FROM restricted_a AS a",
        "SELECT x FROM restricted_a AS a WHERE CAST(a AS VARCHAR) LIKE '%A%'",
        "WITH c(h) AS (SELECT hex(subject) FROM restricted_a) SELECT h FROM c WHERE h LIKE '4%'",
        "SELECT a.x FROM restricted_a AS a JOIN (SELECT 'A' AS subject) AS k USING (subject)",
        "SELECT a.x FROM restricted_a AS a JOIN (SELECT 'A' AS k) AS k ON a.subject = k.k",
        "SELECT * REPLACE (x AS subject) FROM restricted_a",
        "SELECT s FROM (SELECT x AS v FROM p UNION ALL SELECT subject FROM restricted_a) AS t",
        "SELECT s FROM (SELECT subject AS s FROM restricted_a UNION ALL SELECT encounter_id FROM restricted_b) AS t",
        "SELECT x FROM restricted_a UNION ALL SELECT * FROM p",
        "SELECT s FROM (SELECT NULL AS s UNION ALL SELECT hex(subject) FROM restricted_a) AS t WHERE s LIKE '4%'",
        "SELECT s FROM (SELECT (NULL) AS s UNION ALL SELECT subject FROM restricted_a) AS t WHERE s <> 'A'",
        "SELECT s FROM (SELECT NULL AS s UNION ALL (SELECT NULL UNION ALL SELECT subject FROM restricted_a)) AS t",
        "(SELECT x FROM p UNION ALL BY NAME SELECT subject FROM restricted_a) UNION ALL SELECT x FROM p",
        "SELECT x FROM restricted_a GROUP BY (x, hex(subject) || 'A')",
    ],
)
def test_what_would_choose_somebody_without_a_name_is_refused(sql: str) -> None:
    with pytest.raises(QueryRefused, match=r"identifying column|whole row|renames columns"):
        names(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT q.x FROM (SELECT subject, subject, x FROM restricted_a) AS q WHERE hex(q.subject_1) LIKE '4%'",
        "SELECT q.x FROM (SELECT subject, subject, x FROM restricted_a) AS q, (SELECT 1 AS subject_1) AS k",
        "SELECT q.x FROM (SELECT subject, (subject), x FROM restricted_a) AS q",
        "SELECT x FROM (SELECT x AS s, subject AS s FROM restricted_a) AS q",
        "SELECT x FROM (SELECT *, subject FROM restricted_a) AS q",
        "SELECT x FROM (SELECT *, hex(subject) AS y FROM restricted_a) AS q",
        "SELECT x FROM (SELECT *, x AS s FROM (SELECT *, subject AS s FROM restricted_a) AS r) AS q",
        "SELECT x FROM (SELECT a.*, b.* FROM restricted_a AS a JOIN restricted_b AS b USING (subject)) AS q",
        "SELECT x FROM (SELECT * FROM restricted_a AS a JOIN restricted_b AS b ON a.subject = b.subject) AS q",
        "WITH q AS (SELECT *, * FROM restricted_a) SELECT x FROM q",
        "SELECT x FROM (SELECT * RENAME (subject AS x) FROM restricted_a) AS q",
        "SELECT x FROM (SELECT a.* RENAME (subject AS s), x AS s FROM restricted_a AS a) AS q",
    ],
)
def test_columns_that_duckdb_would_give_a_name_of_its_own_are_refused(sql: str) -> None:
    with pytest.raises(QueryRefused, match=r"two columns of one name|a column is not known|another expression under"):
        names(sql)


@pytest.mark.parametrize("name", ["subject_1", "nothing", "q.subject_1"])
def test_a_name_that_neither_a_dataset_nor_the_question_gives_is_refused(name: str) -> None:
    with pytest.raises(QueryRefused, match="a column is not known"):
        names(f"SELECT x FROM (SELECT * FROM restricted_a) AS q WHERE {name} = 1")  # noqa: S608


@pytest.mark.parametrize(
    "value",
    ["mode() WITHIN GROUP (ORDER BY subject)", "percentile_disc(0.5) WITHIN GROUP (ORDER BY hex(subject))",
     "max(DISTINCT subject)", "mode(DISTINCT hex(subject))", "mode() WITHIN GROUP (ORDER BY subject) OVER ()"],
)  # fmt: skip
def test_one_of_the_values_that_identify_gets_no_name_that_is_not_told(value: str) -> None:
    with pytest.raises(QueryRefused, match=r"which may hide an identifying column|calculation with"):
        names(f"SELECT v FROM (SELECT {value} AS v FROM restricted_a) AS q WHERE v LIKE '4%'")  # noqa: S608


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT max(encounter_id) AS n FROM restricted_a",
        "SELECT min((name)) FILTER (WHERE x > 1) OVER (PARTITION BY x) AS n FROM restricted_a",
        "SELECT name FROM restricted_a ORDER BY x, name DESC",
        "SELECT n FROM (SELECT any_value(name) AS n FROM restricted_a) AS t ORDER BY n",
        "SELECT first(x) OVER (ORDER BY encounter_id) AS n FROM restricted_a",
        "SELECT x, name FROM restricted_a ORDER BY 2",
        "SELECT * FROM restricted_a ORDER BY 1",
        "SELECT encounter_id FROM restricted_a UNION ALL SELECT encounter_id FROM restricted_b ORDER BY 1",
    ],
)
def test_order_of_sealed_values_which_is_that_of_their_encryption_is_refused(sql: str) -> None:
    with pytest.raises(QueryRefused, match="have no order"):
        names(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM restricted_a GROUP BY name",
        "SELECT name FROM restricted_a GROUP BY (x, name)",
        "SELECT x, name FROM restricted_a GROUP BY 1, 2",
        "SELECT x, name FROM restricted_a GROUP BY ALL",
        "SELECT * FROM restricted_a GROUP BY ALL",
        "SELECT DISTINCT name AS n FROM restricted_a",
        "SELECT DISTINCT * FROM restricted_a",
        "SELECT DISTINCT ON (name) x FROM restricted_a",
        "SELECT count(DISTINCT name) AS n FROM restricted_a",
        "SELECT count(DISTINCT n) AS m FROM (SELECT name AS n FROM restricted_a) AS t",
        "SELECT approx_count_distinct(name) AS n FROM restricted_a",
        "SELECT mode(name) AS n FROM restricted_a",
        "SELECT count(*) OVER (PARTITION BY name) AS n FROM restricted_a",
        "SELECT a.x FROM restricted_a AS a JOIN restricted_b AS b ON a.name = b.name",
        "SELECT a.x FROM restricted_a AS a JOIN restricted_b AS b ON a.name IS NOT DISTINCT FROM b.name",
        "SELECT a.x FROM restricted_a AS a JOIN restricted_b AS b USING (name)",
        "SELECT x FROM restricted_a WHERE name IN (SELECT name FROM restricted_b)",
        "SELECT name FROM restricted_a UNION SELECT name FROM restricted_b",
        "SELECT name FROM restricted_a EXCEPT ALL SELECT name FROM restricted_b",
    ],
)
def test_equality_of_what_is_sealed_differently_each_time_is_refused(sql: str) -> None:
    with pytest.raises(QueryRefused, match="sealed differently each time"):
        names(sql)
