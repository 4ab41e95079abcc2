"""Attacks on the query service: the allow-list refuses each, or it does no harm; the sandbox stops the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.query.errors import QueryFailed, QueryRefused
from governance.query.relations import Relation
from governance.query.sandbox import Ended, run
from governance.query.service import QueryService
from governance.query.sql import check
from governance.query.worker import Request
from tests.unit.governance.query.query_samples import OFFICER, Recorder, publish_samples
from vitalake.settings import load_settings

DATASETS = ("observation", "patient")

REFUSED = [
    # files, by function, by name, by format
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM parquet_scan('x')",
    "SELECT * FROM parquet_metadata('x')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_json('x')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT read_text('/etc/passwd')",
    "SELECT * FROM sniff_csv('x')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM 'file.csv'",
    'SELECT * FROM "file.csv"',
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM delta_scan('x')",
    "FROM 'file.csv'",
    "FROM read_text('/etc/passwd') SELECT content",
    "SELECT * FROM observation, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "SELECT * FROM observation WHERE value IN (SELECT content FROM read_text('/etc/passwd'))",
    # queries from text
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('observation')",
    "SELECT * FROM query_table(['observation', 'patient'])",
    "SELECT * FROM sql_auto_complete('SEL')",
    "SELECT * FROM json_execute_serialized_sql('x')",
    "SELECT json_serialize_sql('SELECT 1')",
    # the engine's own
    "SELECT getenv('HOME')",
    "SELECT current_setting('memory_limit')",
    "SELECT getvariable('x')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_functions()",
    "SELECT * FROM duckdb_views",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM pg_class",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM pragma_table_info('observation')",
    "SELECT * FROM memory.main.observation",
    "SELECT * FROM main.observation",
    "SELECT memory.main.observation.value FROM observation",
    "SELECT current_user",
    "SELECT current_schema()",
    "SELECT current_database()",
    "SELECT version()",
    "SELECT txid_current()",
    "SELECT current_query()",
    "SELECT * FROM summary('observation')",
    "SHOW TABLES",
    "DESCRIBE observation",
    "SUMMARIZE observation",
    "SELECT * FROM (SHOW TABLES)",
    "SELECT * FROM (DESCRIBE observation)",
    "SELECT * FROM (SUMMARIZE observation)",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT * FROM observation",
    # other statements, and more than one
    "",
    ";",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY observation TO '/tmp/x'",
    "COPY observation TO '/tmp/x.csv'",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "COPY observation FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "ATTACH '/tmp/x.db' AS x",
    "DETACH memory",
    "USE memory",
    "SET memory_limit = '1TB'",
    "RESET memory_limit",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "CREATE TABLE x AS SELECT * FROM observation",
    "CREATE VIEW x AS SELECT 1",
    "CREATE MACRO m(a) AS a + 1",
    "CREATE FUNCTION m(a) AS TABLE SELECT * FROM read_text(a)",
    "CREATE SECRET x (TYPE s3)",
    "INSERT INTO observation VALUES (1)",
    "UPDATE observation SET value = 1",
    "DELETE FROM observation",
    "DROP VIEW observation",
    "TRUNCATE observation",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "WITH x AS (DELETE FROM observation RETURNING *) SELECT * FROM x",
    "WITH x AS (SELECT 1) INSERT INTO observation SELECT * FROM x",
    "SELECT 1 INTO x",
    "VALUES (1)",
    "PIVOT observation ON code USING avg(value)",
    "UNPIVOT observation ON value INTO NAME a VALUE b",
    # values in errors, side channels, what grows
    "SELECT error(patient_id) FROM observation",
    "SELECT CASE WHEN value > 1 THEN error('x') END FROM observation",
    "SELECT repeat('x', 1000000000)",
    "SELECT lpad('x', 1000000000, 'x')",
    "SELECT * FROM range(1000000000000)",
    "SELECT * FROM generate_series(1, 1000000000000)",
    "SELECT unnest(range(1000000000))",
    "SELECT list(value) FROM observation",
    "SELECT string_agg(patient_id, ',') FROM observation",
    "SELECT array_agg(value) FROM observation",
    "SELECT regexp_matches(patient_id, '(a+)+$') FROM observation",
    "SELECT random()",
    "SELECT setseed(0.1)",
    "SELECT gen_random_uuid()",
    "SELECT write_log('x')",
    "SELECT * FROM repeat_row(1, num_rows = 100000000)",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT * FROM t",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SELECT count(*) FROM t",
    # ways around names
    "SELECT value_text FROM observation_raw",
    'SELECT * FROM "observation.x"',
    'SELECT * FROM "main"."observation"',
    "SELECT * FROM observаtion",  # a Cyrillic letter
    "SELECT * FROM ｏｂｓｅｒｖａｔｉｏｎ",
    "SELECT * FROM dead_letter",
    "SELECT * FROM spans",
    "SELECT * FROM x",
    "WITH observation AS (SELECT 1 AS value) SELECT * FROM observation",
    'WITH "Observation_Versions" AS (SELECT 1) SELECT * FROM observation_versions',
    'WITH "a.b" AS (SELECT 1) SELECT * FROM "a.b"',
    'WITH "a""b" AS (SELECT 1) SELECT 1',
    'SELECT 1 AS "x"" FROM read_text(\'/etc/passwd\') --"',
    'SELECT "x\ny" FROM observation',
    'SELECT * FROM observation AS "a;b"',
    "SELECT COLUMNS('.*') FROM observation",
    "SELECT COLUMNS(c -> true) FROM observation",
    "SELECT * REPLACE (getenv('HOME') AS value) FROM observation",
    "SELECT struct_pack(a := 1)",
    "SELECT {'a': 1}",
    "SELECT [1, 2]",
    "SELECT MAP {'a': 1}",
    "SELECT list_transform([1], x -> getenv('HOME'))",
    "SELECT $1",
    "SELECT ?",
    "SELECT $name",
    "SELECT #1 FROM observation",
    "SELECT value[1] FROM observation",
    "SELECT observation FROM observation TABLESAMPLE 10%",
    "SELECT * FROM observation USING SAMPLE 10",
    "SELECT * FROM observation AT (VERSION => 1)",
    "SELECT * FROM observation POSITIONAL JOIN patient",
    "SELECT * FROM observation ASOF JOIN patient USING (patient_id)",
    "SELECT CAST(1 AS getenv)",
    "SELECT CAST('x' AS BLOB)",
    "SELECT CAST('[1]' AS INTEGER[])",
    "SELECT CAST('x' AS JSON)",
    "SELECT CAST('x' AS STRUCT(a INT))",
    "SELECT CAST('x' AS ENUM('x'))",
    "SELECT e'\\x41'",
    "SELECT $$text$$",
    "SELECT x'41'",
    "SELECT 1 /* ",
    "SELECT 'unfinished",
    "SELECT 1\x00; DROP VIEW observation",
    "SELECT '\u202e\u2028'",
    "SELECT '\x1b[2J'",
    "SELECT " + "(" * 41 + "1" + ")" * 41,
    "SELECT " + "CASE WHEN true THEN " * 41 + "1" + " END" * 41,
    "SELECT " + "-" * 1 + " -".join(["1"] * 4000),
    "SELECT '" + "x" * 20_001 + "'",
    "SELECT " + "NOT " * 2900 + "true",
    "SELECT 1" + "::INT" * 1400,
    "SELECT 1" + " BETWEEN 1 AND 1" * 700,
    "SELECT " + "- " * 2900 + "1",
]
"""The allow-list refuses all of these before DuckDB sees them."""


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: ascii(sql[:60]))
def test_what_is_not_on_the_list_is_refused_and_nothing_of_it_is_said(sql: str) -> None:
    with pytest.raises(QueryRefused) as caught:
        check(sql, DATASETS)
    assert caught.value.exit_code == 12
    assert caught.value.__cause__ is None
    for secret in ("passwd", "HOME", "value_text", "/tmp"):
        assert secret not in str(caught.value)


HARMLESS = {
    # a name of DuckDB's own that is a common table's somewhere is nothing anywhere else
    "SELECT * FROM duckdb_views WHERE EXISTS (WITH duckdb_views AS (SELECT 1) SELECT 1)": "not known",
    "SELECT * FROM (WITH pg_class AS (SELECT 1 AS a) SELECT a FROM pg_class) AS t, pg_class": "not known",
    "WITH a AS (SELECT * FROM a) SELECT * FROM a": "",
    # aliases that look like something else are only aliases
    "SELECT duckdb_views.value FROM observation AS duckdb_views": "",
    # columns that are DuckDB's own, and ones that are not published
    "SELECT rowid FROM observation": "not known",
    "SELECT filename FROM observation_versions": "not known",
    "SELECT file_row_number FROM observation_versions": "not known",
    "SELECT value_text FROM observation_versions": "not known",
    "SELECT day FROM observation_versions": "not known",
    # values in errors
    "SELECT CAST(patient_id AS INTEGER) FROM patient": "does not fit",
    "SELECT CAST(patient_id AS TIMESTAMP) FROM patient": "does not fit",
    "SELECT value + patient_id FROM observation JOIN patient USING (patient_id)": "cannot be answered",
}


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_gets_as_far_as_the_engine_shows_nothing_it_should_not(home: Path, sql: str) -> None:
    publish_samples(home / "lake")
    service = QueryService(load_settings(home), audit=Recorder())
    try:
        answer = service.query(sql, principal=OFFICER)
    except (QueryFailed, QueryRefused) as error:
        assert HARMLESS[sql] in str(error)
        assert "v1." not in str(error)
        assert "lake/" not in str(error)
    else:
        assert HARMLESS[sql] == ""
        assert "lake/" not in str(answer.rows.to_pylist())


@pytest.fixture
def relation(tmp_path: Path) -> Relation:
    """A relation of one file, with a secret file next to it."""
    for name in ("allowed", "secret"):
        pq.write_table(pa.table({"version": [1], "value": [f"{name}-value"]}), tmp_path / f"{name}.parquet")
    (tmp_path / "secret.csv").write_text("a,b\nsecret-value,1\n")
    columns = {"version": "BIGINT", "value": "VARCHAR"}
    return Relation("observation", columns, ("value",), (str(tmp_path / "allowed.parquet"),))


RAW = [
    "SELECT * FROM read_parquet('{folder}/secret.parquet')",
    "SELECT * FROM read_parquet('{folder}/*.parquet')",
    "SELECT * FROM read_parquet('{folder}/allowed.parquet/../secret.parquet')",
    "SELECT * FROM '{folder}/secret.parquet'",
    "SELECT * FROM '{folder}/secret.csv'",
    "SELECT * FROM read_csv('{folder}/secret.csv')",
    "SELECT * FROM read_text('{folder}/secret.csv')",
    "SELECT * FROM read_text('file://{folder}/secret.csv')",
    "SELECT * FROM read_blob('{folder}/secret.parquet')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM query('SELECT * FROM read_text(''{folder}/secret.csv'')')",
    "ATTACH '{folder}/new.db' AS x; SELECT * FROM glob('{folder}/new.db')",
    "COPY observation TO '{folder}/out.csv'",
    "COPY observation TO '{folder}/allowed.parquet'",
    "EXPORT DATABASE '{folder}/out'",
    "SET enable_external_access = true; SELECT * FROM read_text('{folder}/secret.csv')",
    "SET allowed_directories = ['{folder}']; SELECT * FROM read_text('{folder}/secret.csv')",
    "RESET lock_configuration; SELECT * FROM read_text('{folder}/secret.csv')",
    "PRAGMA enable_logging; SELECT * FROM read_text('{folder}/secret.csv')",
    "LOAD '{folder}/secret.parquet'",
    "INSTALL httpfs",
    "SELECT * FROM read_parquet('https://127.0.0.1:9/x.parquet')",
    "SELECT getenv('PATH')",
    "CREATE SECRET s (TYPE s3); SELECT * FROM 's3://x/y.parquet'",
    "SELECT * FROM request",
    "SELECT * FROM rows",
]
"""Sent to the sandbox without the allow-list, as if the list had a hole."""


@pytest.mark.parametrize("sql", RAW)
def test_raw_sql_in_the_sandbox_reaches_no_file_but_its_own(tmp_path: Path, relation: Relation, sql: str) -> None:
    _reaches_nothing(tmp_path, relation, sql)


@pytest.mark.parametrize("sql", [RAW[0], RAW[6], RAW[13], RAW[16]])
@pytest.mark.usefixtures("real_interpreter")
def test_nor_does_it_where_the_interpreter_is_no_fork(tmp_path: Path, relation: Relation, sql: str) -> None:
    _reaches_nothing(tmp_path, relation, sql)


def _reaches_nothing(tmp_path: Path, relation: Relation, sql: str) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    request = Request(sql.format(folder=tmp_path), [relation], 100, 256, 10, 1 << 20)
    try:
        head, table = run(request)
        shown: Any = table.to_pylist() if table is not None else []
        assert "secret-value" not in str(shown)
        assert head.failed or not shown
    except Ended:
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("real_interpreter")
def test_the_sandbox_reads_its_own_file_and_has_an_empty_environment(relation: Relation) -> None:
    os.environ["VITALAKE_TEST_SECRET"] = "x"
    head, table = run(Request("SELECT value FROM observation", [relation], 10, 256, 10, 1 << 20))
    assert head.rows == 1
    assert table is not None
    assert table["value"].to_pylist() == ["allowed-value"]


BOMBS = [
    "SELECT count(*) FROM (SELECT DISTINCT a.i * 100000 + b.i AS x FROM range(100000) a(i), range(10000) b(i))",
    "SELECT repeat(repeat(repeat('x', 10000), 10000), 10000)",
    "SELECT list(i) FROM range(100000000) t(i)",
]


@pytest.mark.parametrize("sql", BOMBS)
@pytest.mark.usefixtures("real_interpreter")
def test_bombs_end_within_the_sandbox(sql: str) -> None:
    try:
        head, table = run(Request(sql, [], 10, 128, 1, 1 << 20))
    except Ended:
        return
    assert head.failed in ("memory", "time", "size", "failed", "range")
    assert table is None
