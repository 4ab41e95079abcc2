"""Queries: allowed ones are answered correctly, within limits that the errors name, and recorded first."""

from __future__ import annotations

import resource
import shutil
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.access import MissingPermission
from governance.audit import verify_chain
from governance.policy.rules import load_policy
from governance.query import sandbox, worker
from governance.query.engine import connect
from governance.query.errors import QueryFailed, QueryRefused, failure
from governance.query.relations import Relation
from governance.query.sandbox import Ended, read_answer
from governance.query.service import Answer, QueryService
from governance.query.slots import slot
from governance.query.sql import check
from governance.query.worker import Head, Request, answer
from tests.unit.governance.query.query_samples import CLINICIAN, NOON, OFFICER, ONE, TWO, Recorder, publish_samples
from vitalake.cli.app import main
from vitalake.errors import LakeError, ServiceUnavailable
from vitalake.keys import load_keys
from vitalake.lake.tables.log_files import note_log_set_aside
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import QuerySettings, Settings, load_settings

DATASETS = ("observation", "patient")


@pytest.fixture
def settings(home: Path) -> Settings:
    publish_samples(home / "lake")
    return load_settings(home)


def _ask(settings: Settings, sql: str, *, audit: Recorder | None = None, **options: Any) -> Answer:
    return QueryService(settings, audit=audit or Recorder()).query(sql, principal=OFFICER, **options)


def _rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    return _ask(settings, sql).rows.to_pylist()


# -- what may be asked


def test_a_name_is_the_current_rows_and_versions_are_all(settings: Settings) -> None:
    sql = "SELECT (SELECT count(*) FROM observation) AS now, (SELECT count(*) FROM Observation_Versions) AS all_rows"
    assert _rows(settings, sql) == [{"now": 4, "all_rows": 9}]


def test_a_table_that_is_being_made_again_is_not_taken_for_one_with_few_rows(settings: Settings) -> None:
    note_log_set_aside(open_storage(settings.lake_uri, settings.storage_options).child("published/observation"), 1)
    with pytest.raises(LakeError, match="is to be made again"):
        _ask(settings, "SELECT count(*) FROM observation")
    assert _rows(settings, "SELECT count(*) AS n FROM patient") == [{"n": 2}]


def test_a_table_that_is_gone_is_not_taken_for_one_without_rows(settings: Settings) -> None:
    lake = settings.home / "lake"
    kept = lake / "restricted/observation/day=2026-03-01/some.parquet"
    kept.parent.mkdir(parents=True)
    kept.touch()
    shutil.rmtree(lake / "published/observation")
    with pytest.raises(LakeError, match="Published table is gone"):
        _ask(settings, "SELECT count(*) FROM observation")


def test_datasets_can_be_joined_grouped_and_ordered(settings: Settings) -> None:
    sql = """
        -- a comment
        WITH latest AS (
            SELECT patient_id, value, row_number() OVER (PARTITION BY patient_id ORDER BY effective_at DESC) AS place
            FROM observation WHERE code = '8867-4' AND effective_at > TIMESTAMP '2026-01-01'
        )
        SELECT p.sex, round(latest.value, 1) AS value FROM latest JOIN patient p USING (patient_id)
        WHERE place = 1 ORDER BY 1 LIMIT 10
    """
    assert _rows(settings, sql) == [{"sex": "female", "value": 75.0}, {"sex": "male", "value": 99.0}]


ANSWERED = {
    "SELECT median(value), quantile_cont(value, 0.5) FROM observation": (74.5, 74.5),
    "SELECT count(*) FILTER (WHERE value > 74) FROM observation": (2,),
    "SELECT count(DISTINCT patient_id), max(value) - min(value) FROM observation": (2, 28.0),
    "SELECT avg(CASE WHEN code = '8867-4' THEN value ELSE 0 END) FROM observation": (61.25,),
    "SELECT try_cast('x' AS DOUBLE), CAST('1' AS INTEGER), coalesce(NULL, 'a') || 'b'": (None, 1, "ab"),
    "SELECT extract(hour FROM max(effective_at)), year(max(effective_at)) FROM observation": (12, 2026),
    "SELECT date_trunc('day', max(effective_at))::VARCHAR FROM observation": ("2026-03-01 00:00:00+00",),
    "SELECT datediff('minute', min(effective_at), max(effective_at)) FROM observation": (4,),
    "SELECT count(*) FROM observation WHERE effective_at < now() - INTERVAL 1 SECOND": (4,),
    "SELECT count(*) FROM (SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 2) AS x": (1,),
    "SELECT count(*) FROM observation o WHERE EXISTS (SELECT 1 FROM patient p WHERE p.patient_id = o.patient_id)": (4,),
    "SELECT count(*) FROM observation WHERE code IN (SELECT code FROM observation) AND code LIKE '8%'": (3,),
    "SELECT lower(hex(min(observation_id))) FROM observation": ("0" * 31 + "1",),
    "FROM patient SELECT count(*)": (2,),
    "(SELECT 1)": (1,),
    "SELECT 'it''s; DROP TABLE x -- no'": ("it's; DROP TABLE x -- no",),
    "SELECT '../../etc/passwd'": ("../../etc/passwd",),
}


@pytest.mark.parametrize("sql", ANSWERED)
def test_ordinary_questions_are_answered(settings: Settings, sql: str) -> None:
    [row] = _rows(settings, sql)
    assert tuple(row.values()) == ANSWERED[sql]


EXPRESSIONS = [
    "avg(x)", "sum(x)", "min(s)", "max(t)", "count(*)", "count(x)", "count_if(x > 2)", "any_value(x)", "mode(s)",
    "median(x)", "quantile_cont(x, 0.25)", "quantile_disc(x, 0.25)", "quantile(x, 0.75)", "stddev(x)",
    "stddev_pop(x)", "stddev_samp(x)", "variance(x)", "var_pop(x)", "var_samp(x)", "corr(x, y)", "covar_pop(x, y)",
    "covar_samp(x, y)", "bool_and(x > 0)", "bool_or(x > 4)", "arg_max(s, x)", "arg_min(s, x)",
    "approx_count_distinct(s)", "percentile_cont(0.5) WITHIN GROUP (ORDER BY x)", "max(x) FILTER (WHERE y > 1)",
    "max(abs(-x))", "max(ceil(x))", "max(floor(x))", "max(round(x))", "max(round(x / 3, 2))", "max(sign(x))",
    "max(sqrt(x))", "max(exp(x))", "max(ln(x))", "max(log(x))", "max(x ** 2)", "max(pow(x, 2))", "max(power(x, y))",
    "max(x // 2)", "max(x % 3)", "max(5 // 2)", "max(5 / 2)", "max(-7 // 2)", "max(-7 % 3)", "max(greatest(x, y))",
    "max(least(x, y))", "max(coalesce(NULL, x))", "max(nullif(x, 3))", "max(if(x > 2, 1, 0))", "max(ifnull(NULL, x))",
    "max(lower(upper(s)))", "max(length(s))", "max(substring(s, 2, 1))", "max(substr(s, 1, 2))", "max(trim(s))",
    "max(s || s)", "max(starts_with(s, 'a'))", "max(hex(s))", "max(s LIKE 'a%')", "max(s ILIKE 'A%')",
    "max(year(t))", "max(quarter(t))", "max(month(t))", "max(week(t))", "max(day(t))", "max(dayofweek(t))",
    "max(dayofyear(t))", "max(hour(t))", "max(minute(t))", "max(second(t))", "max(epoch(t))", "max(epoch_us(t))",
    "max(extract(dow FROM t))", "max(extract(doy FROM t))", "max(extract(week FROM t))",
    "max(extract(epoch FROM t))", "max(date_trunc('week', t))",
    "max(date_trunc('month', t))", "max(date_trunc('hour', t))", "max(date_diff('hour', TIMESTAMP '2026-01-01', t))",
    "max(t - INTERVAL 90 MINUTE)", "max(t + INTERVAL '2 days')", "max(t - TIMESTAMP '2026-01-01')",
    "max(CAST(t AS DATE))", "max(t::DATE + 1)", "max(CAST(x AS DECIMAL(9, 3)))", "max(CAST(2.5 AS INTEGER))",
    "max(CAST(x AS VARCHAR))", "max(try_cast(s AS INTEGER))", "max(CASE s WHEN 'ab' THEN 1 ELSE 2 END)",
    "max(x BETWEEN 1 AND 2)", "max(x NOT IN (1, 2))", "max(x IS DISTINCT FROM y)", "max(x IS NOT DISTINCT FROM y)",
    "max(NOT x > 2)", "max(isnan(x))", "max(isfinite(x))", "count(DISTINCT s)",
]  # fmt: skip
WINDOWS = [
    "row_number() OVER w", "rank() OVER w", "dense_rank() OVER w", "percent_rank() OVER w", "ntile(2) OVER w",
    "lag(x) OVER w", "lead(x, 1, 0) OVER w", "first_value(x) OVER w", "last_value(x) OVER w",
    "last_value(x IGNORE NULLS) OVER w",
    "avg(x) OVER (PARTITION BY s ORDER BY t ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
    "sum(x) OVER (ORDER BY t RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW)", "max(x) OVER ()",
]  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A connection with one relation of a few rows."""
    path = tmp_path_factory.mktemp("engine") / "rows.parquet"
    columns = {"version": "BIGINT", "x": "DOUBLE", "y": "DOUBLE", "s": "VARCHAR", "t": "TIMESTAMPTZ"}
    times = [NOON + timedelta(hours=17 * number) for number in range(6)]
    rows = {"version": [1] * 6, "x": [1.0, 2.5, 3.0, 4.5, None, 0.5], "y": [2.0, 1.0, 0.5, 4.0, 1.0, 3.5],
            "s": ["ab", "cd ", "ab", None, "é", "7"], "t": pa.array(times, pa.timestamp("us", "UTC"))}  # fmt: skip
    pq.write_table(pa.table(rows), path)
    return connect([Relation("things", columns, ("t",), (str(path),))], memory_mb=128)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_written_anew_means_the_same(engine: Any, expression: str) -> None:
    sql = f"SELECT {expression} FROM things"  # noqa: S608
    assert str(engine.sql(check(sql, ["things"]).sql).fetchall()) == str(engine.sql(sql).fetchall())


@pytest.mark.parametrize("expression", WINDOWS)
def test_windows_that_are_written_anew_mean_the_same(engine: Any, expression: str) -> None:
    expression = expression.replace("OVER w", "OVER (PARTITION BY s ORDER BY t DESC NULLS LAST)")
    sql = f"SELECT t, {expression} AS value FROM things ORDER BY t"  # noqa: S608
    assert str(engine.sql(check(sql, ["things"]).sql).fetchall()) == str(engine.sql(sql).fetchall())


def test_an_answer_that_is_cut_says_so(settings: Settings) -> None:
    cut = _ask(settings, "SELECT value FROM observation ORDER BY value", rows=3)
    assert (cut.rows["value"].to_pylist(), cut.complete) == ([71.0, 74.0, 75.0], False)
    full = _ask(settings, "SELECT value FROM observation", rows=4)
    assert (full.rows.num_rows, full.complete, full.datasets) == (4, True, ("observation",))


# -- the record


def test_a_query_is_recorded_by_its_form_before_it_is_answered(settings: Settings) -> None:
    audit = Recorder()
    for patient in (ONE, TWO):
        _ask(settings, f"SELECT value FROM observation WHERE patient_id = '{patient}'", audit=audit)  # noqa: S608
    first, second = audit.events
    assert first.detail["digest"] == second.detail["digest"]
    assert (first.detail["rows"], second.detail["rows"]) == ("3", "1")
    assert first.detail["digest"] == "".join(c for c in first.detail["digest"] if c in "0123456789abcdef")
    assert {**first.detail, "digest": ""} == {
        "digest": "", "datasets": "observation", "rows": first.detail["rows"], "outcome": "answered",
        "columns": "observation(patient_id,value)", "classes": "measurement,patient-identifier",
        "rules": load_policy(settings.path(settings.governance)).version,
    }  # fmt: skip
    audit.full = True
    with pytest.raises(ServiceUnavailable, match="Audit cannot be written"):
        _ask(settings, "SELECT 1", audit=audit)


@pytest.mark.parametrize("most", [10, 2])  # with less than "all" takes, as of 201 datasets, it never ended
def test_a_record_of_very_many_columns_says_all(settings: Settings, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("governance.query.service.MOST_COLUMN_CHARACTERS", most)
    audit = Recorder()
    _ask(settings, "SELECT value, patient_id FROM observation", audit=audit)
    assert audit.events[0].detail["columns"] == "observation(all)"
    assert audit.events[0].detail["classes"] == "measurement,patient-identifier"


def test_refused_and_failed_queries_are_recorded_too(settings: Settings) -> None:
    audit = Recorder()
    with pytest.raises(QueryRefused):
        _ask(settings, "SELECT getenv('HOME')", audit=audit)
    with pytest.raises(QueryFailed):
        _ask(settings, "SELECT value_text FROM observation", audit=audit)
    with pytest.raises(MissingPermission):
        QueryService(settings, audit=audit).query("SELECT 1", principal=CLINICIAN)
    assert [(event.action, event.detail.get("outcome")) for event in audit.events] == [
        ("denied", None),
        ("sql.query", "names"),
        ("denied", None),
    ]


def test_a_query_waits_for_its_turn_and_says_so(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Eight at once took 3.5 GB."""
    one_place = settings.model_copy(update={"queries": QuerySettings(workers=1, wait_seconds=0.2)})
    caplog.set_level("INFO", logger="governance.query.service")
    with slot(settings.home, workers=1, seconds=0, waiting=pytest.fail):
        with pytest.raises(ServiceUnavailable, match="queries run at once"):
            _ask(one_place, "SELECT 1")
    assert [record.message for record in caplog.records] == ["query waits"]
    assert _ask(one_place, "SELECT 1").complete


def test_a_door_records_in_the_homes_audit_by_itself(settings: Settings, home: Path) -> None:
    QueryService(settings).query("SELECT 1", principal=OFFICER)
    report = {
        chain.writer: chain.records for chain in verify_chain(home / "audit", load_keys(home / "keys.yaml")).chains
    }
    assert report["door"] == 1


# -- failures say a category


def test_a_name_that_is_not_known_is_answered_with_those_that_are(settings: Settings) -> None:
    with pytest.raises(QueryFailed) as caught:
        _ask(settings, "SELECT value_text FROM observation")
    assert "observation has observation_id, version, patient_id" in str(caught.value)
    assert "value_text" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT CAST(patient_id AS INTEGER) FROM observation", "a value does not fit"),
        ("SELECT CAST(patient_id AS DATE) FROM patient", "a value does not fit"),
        ("SELECT CAST(9999999999 AS INTEGER)", "a value does not fit"),
        ("SELECT sum(value) FROM observation WHERE sum(value) > 1", "not known"),
    ],
)
def test_a_failure_never_quotes_a_value(settings: Settings, sql: str, why: str) -> None:
    with pytest.raises(QueryFailed, match=why) as caught:
        _ask(settings, sql)
    assert "v1." not in str(caught.value)
    assert "9999" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "category", ["names", "form", "cast", "range", "memory", "time", "size", "storage", "refused", "failed"]
)
def test_every_category_has_words_and_a_remedy(category: Any) -> None:
    error = failure(category)
    assert error.what
    assert error.remedy
    assert error.exit_code == {"refused": 12, "storage": 14}.get(category, 11)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 600], ids=["by the clock", "by processor time"])
def test_a_bomb_is_killed_when_its_time_is_over(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    monkeypatch.setattr(sandbox, "START_SECONDS", start)
    tables = ", ".join(f"observation_versions AS t{number}" for number in range(14))
    total = " + ".join(f"t{number}.value" for number in range(14))
    with pytest.raises(QueryFailed, match="takes longer than"):
        _ask(settings, f"SELECT sum({total}) FROM {tables}", seconds=1)  # noqa: S608


def test_a_sandbox_that_ends_without_an_answer_is_said_and_recorded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    audit = Recorder()
    with pytest.raises(ServiceUnavailable, match="operating system ended the query"):
        _ask(settings, "SELECT 1", audit=audit)
    assert [event.detail["outcome"] for event in audit.events] == ["ended"]


# -- the worker, in this process


def _request(sql: str, **changes: Any) -> Request:
    return Request(
        **{"sql": sql, "relations": [], "rows": 10, "memory_mb": 256, "seconds": 5, "size": 1 << 20, **changes}
    )


def _head(data: bytes) -> Head:
    return msgspec.json.decode(data.partition(b"\n")[0], type=Head)


def test_the_worker_answers_with_a_head_and_rows() -> None:
    request = _request("SELECT 1 AS a UNION ALL SELECT 2")
    head, table = read_answer(answer(request), request)
    assert head == Head(rows=2)
    assert table is not None
    assert sorted(table["a"].to_pylist()) == [1, 2]


@pytest.mark.parametrize(
    ("sql", "category", "unread"),
    [
        ("SELECT nothing", "names", True),
        ("SELECT FROM", "form", True),
        ("SET threads = 1", "failed", True),
        ("", "form", True),
        ("SELECT CAST('x' AS INT)", "cast", False),
        ("SELECT 9223372036854775807 + 1", "range", False),
        ("SELECT 1 LIMIT (SELECT 9223372036854775807)", "names", False),
        ("SELECT error('v1.secret')", "failed", False),
        ("SELECT count(*) FROM (SELECT DISTINCT i FROM range(100000000) t(i))", "memory", False),
        ("SELECT repeat('x', 3000000)", "size", False),
        ("SELECT repeat('x', 100000) FROM range(1000)", "size", False),
    ],
)
def test_the_worker_says_categories_only_and_whether_it_had_read(sql: str, category: str, unread: bool) -> None:
    data = answer(_request(sql, rows=10_000))
    assert _head(data) == Head(failed=category, unread=unread)  # type: ignore[arg-type]
    assert b"v1." not in data


@pytest.mark.parametrize(
    ("sql", "beside", "category"),
    [
        ("SELECT error('x') AS a, (1, 2) AS b", [], "nested"),
        ("SELECT error('x') AS a, [1] AS b", [], "nested"),
        ("SELECT error('x') AS a", ["SELECT 1", "SELECT outside.a"], "outwards"),
        ("SELECT error('x') AS a, {'sealed': 'x'::BLOB} AS b, ['x'::BLOB] AS who__", ["SELECT 1"], "failed"),
    ],
)
def test_the_worker_refuses_by_form_before_it_reads(sql: str, beside: list[str], category: str) -> None:
    head = _head(answer(_request(sql, side_queries=beside)))
    assert (head.failed, head.unread) == (category, category != "failed")


def test_the_worker_cuts_at_the_limit() -> None:
    request = _request("SELECT * FROM range(20000)", rows=9_000)
    head, table = read_answer(answer(request), request)
    assert head == Head(rows=9_000, more=True)
    assert table is not None
    assert table.num_rows == 9_000


def test_a_file_that_has_gone_is_the_storages_failure(tmp_path: Path) -> None:
    relation = Relation("observation", {"version": "BIGINT"}, ("version",), (str(tmp_path / "gone.parquet"),))
    assert _head(answer(_request("SELECT 1", relations=[relation]))).failed == "storage"


def test_the_worker_confines_itself_before_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class _Libc:
        def syscall(self, number: int, *_: Any) -> int:
            calls.append(("syscall", number))
            return -1  # no Landlock here

        def prctl(self, *arguments: int) -> int:
            calls.append(("prctl", *arguments[:2]))
            return 0

        def unshare(self, flags: int) -> int:
            calls.append(("unshare", flags))
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: _Libc())
    monkeypatch.setattr("resource.setrlimit", lambda kind, most: calls.append(("limit", kind, most)))
    out = BytesIO()
    worker.main(BytesIO(msgspec.json.encode(_request("SELECT 1 AS a"))), out)
    assert _head(out.getvalue()) == Head(rows=1)
    assert ("limit", resource.RLIMIT_FSIZE, (0, 0)) in calls
    assert ("limit", resource.RLIMIT_CPU, (11, 12)) in calls
    assert ("prctl", 1, 9) in calls
    assert ("prctl", 38, 1) in calls
    assert calls[-2:] == [("unshare", 0x50000000), ("syscall", 444)]


# -- the answer is held to its word


def _stream(rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"a": list(range(rows))})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json\n",
        b'{"rows":"many"}\n',
        b'{"rows":2}\n',
        b'{"rows":2}\nARROW1',
        b'{"rows":2}\n' + _stream(3),
        b'{"rows":11}\n' + _stream(11),
        b'{"rows":2}\n' + _stream(2)[:-30],
        b'{"failed":"SELECT v1.secret"}\n',
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(data: bytes) -> None:
    with pytest.raises(Ended):
        read_answer(data, _request("SELECT 1"))


def test_an_answer_that_is_too_large_is_not_read() -> None:
    assert read_answer(b"x" * (2 << 20), _request("SELECT 1")) == (Head(failed="size"), None)


# -- the command


def test_the_command_prints_rows_and_says_when_there_are_more(
    settings: Settings, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = """SELECT observation_id, value, effective_at, NULL AS nothing, sum(version) OVER () AS versions,
        CAST(value AS DECIMAL(10, 2)) / 2 AS half, CAST(0.25 AS DECIMAL(4, 2)) AS quarter
        FROM observation ORDER BY value"""
    assert main(["sql", sql, "--home", str(home), "--limit", "2"]) == 0
    printed = capsys.readouterr()
    assert "71.0" in printed.out
    assert "Only the first 2 rows are shown, there are more." in printed.err
    assert main(["sql", sql, "--home", str(home), "--json"]) == 0
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document["columns"][:5] == ["observation_id", "value", "effective_at", "nothing", "versions"]
    assert document["rows"][0] == ["0" * 31 + "1", 71.0, "2026-03-01T12:01:00+00:00", None, 5, 35.5, 0.25]
    assert document["complete"] is True


def test_rows_too_wide_for_a_grid_are_printed_one_below_the_other(
    settings: Settings, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sql", "SELECT * FROM observation WHERE value = 71", "--home", str(home)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["value", "71.0"] in lines
    assert ["patient_id", ONE] in lines


def test_the_command_ends_with_12_when_refused_and_with_11_when_it_fails(
    settings: Settings, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sql", "SELECT * FROM read_parquet('/tmp/secret.parquet')", "--home", str(home)]) == 12
    assert "secret" not in capsys.readouterr().err
    assert main(["sql", "SELECT CAST(patient_id AS INT) FROM patient", "--home", str(home)]) == 11
    assert "v1." not in capsys.readouterr().err


def test_a_query_has_one_digest_whatever_its_literals_and_another_for_another_form() -> None:
    one, two, three = (
        check(f"SELECT value FROM observation WHERE {condition}", DATASETS).digest  # noqa: S608
        for condition in ("code = 'a' AND value > 1", "code = 'b' AND value > 2.5", "code = 'a'")
    )
    assert one == two != three


def test_what_reads_differently_once_it_is_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("governance.query.sql._generate", lambda tree: f"SELECT {len(tree.sql())}")
    with pytest.raises(QueryRefused, match="form"):
        check("SELECT value FROM observation", DATASETS)
