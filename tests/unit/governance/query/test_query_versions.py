"""Rows as known at a moment, in queries and for training; and tables that an earlier or later release has written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Schema

from governance.query.errors import QueryFailed, QueryRefused
from governance.query.relations import Relation, views
from governance.query.service import QueryService
from governance.query.sql import check
from tests.unit.governance.query.query_samples import (
    NOON,
    OFFICER,
    ONE,
    Recorder,
    observation,
    publish,
    publish_samples,
)
from vitalake.cli.app import main
from vitalake.errors import InputError, PrivacyError
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import StagedFile, Table
from vitalake.settings import Settings, load_settings

pytestmark = pytest.mark.slow

LATER = NOON + timedelta(hours=2)


@pytest.fixture
def settings(home: Path) -> Settings:
    """A home with a value that was corrected, and one that was withdrawn, at two o'clock."""
    rows = [observation(1, 71.0), observation(2, 72.0), observation(3, None, available_at=None)]
    publish(home / "lake", "observation", rows)
    corrections = [
        observation(1, 99.0, version=2, status="amended", available_at=LATER),
        observation(2, None, version=2, status="entered-in-error", available_at=LATER),
    ]
    publish(home / "lake", "observation", corrections)
    return load_settings(home)


def ask(settings: Settings, sql: str) -> list[Any]:
    answer = QueryService(settings, audit=Recorder()).query(sql, principal=OFFICER)
    return sorted(value for value in answer.rows.column(0).to_pylist() if value is not None)


def read(settings: Settings, **options: Any) -> list[float]:
    audit = options.pop("audit", Recorder())
    options = {"columns": ["value"], "principal": OFFICER, "purpose": "train-test", **options}
    table = pa.Table.from_batches(QueryService(settings, audit=audit).read("observation", **options))
    return sorted(value for value in table["value"].to_pylist() if value is not None)


MOMENTS = {
    "'2026-03-01 11:59'": [],
    "TIMESTAMP '2026-03-01 12:01:00'": [71.0],
    "TIMESTAMP '2026-03-01 13:00:00'": [71.0, 72.0],
    "'2026-03-01 13:59:59.999999'": [71.0, 72.0],
    "'2026-03-01 14:00+00'": [99.0],
    "'2026-03-01T15:59:59+02:00'": [71.0, 72.0],
    "TIMESTAMPTZ '2026-03-01 16:00:00+02'": [99.0],
    "DATE '2026-03-02'": [99.0],
    "TIMESTAMP '2026-03-01 15:00' - INTERVAL '90 minutes'": [71.0, 72.0],
    "CAST('2026-03-01 13:00' AS TIMESTAMP)": [71.0, 72.0],
    "now()": [99.0],
    "now() - INTERVAL 1 DAY": [99.0],
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_only_what_could_be_known_then_counts(settings: Settings, moment: str) -> None:
    assert ask(settings, f"SELECT value FROM observation_as_known_at({moment})") == MOMENTS[moment]  # noqa: S608


def test_moments_of_one_query_may_differ_and_be_joined(settings: Settings) -> None:
    sql = """WITH before AS (SELECT * FROM observation_as_known_at('2026-03-01 13:00'))
        SELECT b.value - n.value FROM before AS b
        JOIN Observation_As_Known_At('2026-03-01 14:00') AS n USING (observation_id)
        JOIN observation USING (observation_id)"""
    assert ask(settings, sql) == [-28.0]
    assert ask(settings, "SELECT observation_as_known_at.value FROM observation_as_known_at('2026-03-01 13:00')") == [
        71.0,
        72.0,
    ]


@pytest.mark.parametrize(
    "moment",
    [
        "", "'a', 'b'", "value", "o.available_at", "(SELECT now())", "(SELECT max(available_at) FROM observation)",
        "moment__ := now()", "m := '2026-03-01'", "*", "getenv('HOME')", "CAST(value AS TIMESTAMP)", "[now()]",
        "CASE WHEN true THEN now() END", "current_setting('TimeZone')", "now() OVER ()", "moment__", "?", "$1",
    ],
)  # fmt: skip
def test_a_moment_is_a_constant(moment: str) -> None:
    with pytest.raises(QueryRefused):
        check(f"SELECT 1 FROM observation AS o, observation_as_known_at({moment}) AS k", ["observation"])  # noqa: S608


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT observation_as_known_at(now())",
        "SELECT * FROM observation_as_known_at",
        'SELECT * FROM "observation_as_known_at"(now())',
        "SELECT * FROM main.observation_as_known_at(now())",
        "SELECT * FROM observation_as_known_at(now()) WITH ORDINALITY",
        "SELECT * FROM observation_as_known_at(now()) TABLESAMPLE 10%",
        "SELECT * FROM observation_versions_as_known_at(now())",
        "SELECT * FROM spans_as_known_at(now())",
        "SELECT * FROM query_as_known_at('SELECT 1')",
        "SELECT * FROM range(now())",
        "SELECT 1 FROM observation, LATERAL observation_as_known_at(available_at)",
        "SELECT * FROM (VALUES (1)) AS observation_as_known_at(x)",
    ],
)
def test_the_function_stands_for_a_table_and_nothing_else_is_one(sql: str) -> None:
    with pytest.raises(QueryRefused):
        check(sql, ["observation"])


def test_a_moment_that_is_none_is_answered_in_categories(settings: Settings) -> None:
    with pytest.raises(QueryFailed, match="does not fit") as caught:
        ask(settings, "SELECT value FROM observation_as_known_at('yesterday')")
    assert "yesterday" not in str(caught.value)


def test_the_digest_is_of_the_form_and_the_dataset_is_on_record(settings: Settings) -> None:
    first, second = (
        check(f"SELECT 1 FROM observation_as_known_at('{day}')", ["observation"])  # noqa: S608
        for day in ("2026-03-01", "2026-03-02")
    )
    assert first.digest == second.digest
    assert first.datasets == ("observation",)
    assert check(first.sql, ["observation"]).sql == first.sql


# -- training


def test_training_reads_what_could_be_known_at_a_moment_and_says_so(settings: Settings) -> None:
    audit = Recorder()
    moment = datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert read(settings, as_known_at=moment, audit=audit) == [71.0, 72.0]
    assert audit.events[0].detail["as_known_at"] == "2026-03-01T13:00:00+00:00"
    assert read(settings, as_known_at=LATER) == [99.0]
    assert read(settings) == [99.0]
    assert read(settings, as_known_at=moment, where={"value": [72.0]}) == [72.0]


def test_training_needs_a_moment_with_its_zone(settings: Settings) -> None:
    with pytest.raises(InputError, match="as known at"):
        read(settings, as_known_at=datetime(2026, 3, 1, 13))  # noqa: DTZ001 - that is the mistake


def test_without_a_published_time_nothing_is_known_at_a_moment(settings: Settings) -> None:
    rules = settings.path(settings.governance) / "no-times.yaml"
    rules.write_text(
        "version: 1\nrules:\n- {id: no-times, what: {column: available_at}, then: {mask: drop}, reason: test, "
        "legal_basis: none, owner: test}\n"
    )
    assert read(settings) == [99.0]
    with pytest.raises(InputError, match="as known at"):
        read(settings, as_known_at=LATER)
    with pytest.raises(QueryFailed, match="not known"):
        ask(settings, "SELECT value FROM observation_as_known_at(now())")


# -- other releases' tables


def _before() -> Dataset:
    declared = load_dataset("observation")
    kept = tuple(c for c in declared.columns if c.name not in ("attribution", "told_at"))
    return replace(declared, columns=kept, revision=1)


@pytest.fixture
def old(home: Path) -> Settings:
    """A home that only the first release has written."""
    before = _before()
    place = home / "lake" / "published" / "observation"
    DeltaTable.create(str(place), schema=Schema.from_arrow(before.table_schema), partition_by=["day"])
    table = Table(before, open_storage(str(home / "lake"), {}), zone="published")
    rows = [observation(1, 71.0), observation(2, 72.0)]
    columns = {c.name: pa.array([row.get(c.name) for row in rows], c.type) for c in before.columns}
    stem = "day=2026-03-01/old"
    path, size = table.storage.write_parquet(stem, pa.table(columns))
    table.commit(add=[StagedFile(table.name, path, size, 2, "2026-03-01")], transactions={"old": 1})
    return load_settings(home)


def test_a_table_of_before_is_asked_as_it_is_and_beside_new_files(old: Settings) -> None:
    version = DeltaTable(f"{old.lake_uri}/published/observation").version()
    assert ask(old, "SELECT value FROM observation WHERE attribution IS NULL") == [71.0, 72.0]
    assert read(old, columns=["value", "attribution"]) == [71.0, 72.0]
    assert DeltaTable(f"{old.lake_uri}/published/observation").version() == version
    publish(old.lake_uri, "observation", [observation(2, 99.0, attribution=3), observation(4, 74.0, attribution=1)])
    assert ask(old, "SELECT value FROM observation") == [71.0, 72.0, 74.0]  # a message that names its patient first
    assert ask(old, "SELECT attribution FROM observation_versions") == [1, 3]
    assert ask(old, f"SELECT value FROM observation_as_known_at('{NOON + timedelta(minutes=3)}')") == [71.0, 72.0]  # noqa: S608


def test_what_was_published_under_another_class_is_not_shown_until_it_is_published_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_samples(home / "lake")
    declared = load_dataset("observation")
    columns = tuple(replace(c, data_class="record-version") if c.name == "value" else c for c in declared.columns)
    changed = replace(declared, columns=columns)
    monkeypatch.setattr(
        "governance.query.catalogue.load_dataset", lambda name: changed if name == "observation" else load_dataset(name)
    )
    settings = load_settings(home)
    with pytest.raises(QueryFailed, match="not known"):
        ask(settings, "SELECT value FROM observation")
    assert ask(settings, f"SELECT code FROM observation WHERE patient_id = '{ONE}'") != []  # noqa: S608
    with pytest.raises(InputError, match="another data class") as caught:
        read(settings)
    assert "--republish observation" in caught.value.remedy
    Table(changed, open_storage(settings.lake_uri, {}), zone="published").prepare(republished=True)
    assert ask(settings, "SELECT value FROM observation") != []


def test_rules_must_publish_the_attribution_as_they_do_the_version(settings: Settings) -> None:
    rules = settings.path(settings.governance) / "no-attribution.yaml"
    rules.write_text(
        "version: 1\nrules:\n- {id: none, what: {column: attribution}, then: {mask: drop}, reason: test, "
        "legal_basis: none, owner: test}\n"
    )
    with pytest.raises(PrivacyError, match="clearly which rows are current"):
        ask(settings, "SELECT value FROM observation")


STAY = {"encounter_id": "v1." + "c" * 32, "patient_id": ONE, "unit": "Medicine", "version": 1}
KEY_MASKED = [
    ("ward_movement", "in_at", "generalise, unit: day", [{**STAY, "in_at": NOON}, {**STAY, "in_at": LATER}]),
    ("ward_movement", "encounter_id", "redact", [{**STAY, "in_at": NOON}]),
    (
        "observation",
        "status",
        "drop",
        [observation(1, 71.0), observation(1, None, version=2, status="entered-in-error")],
    ),
    ("observation", "version", "cap, at: 1", [observation(1, 71.0), observation(1, 72.0, version=2)]),
]
"""Rules that take from published rows what tells which of them are current: dataset, column, mask, rows."""


@pytest.mark.parametrize(("dataset", "column", "mask", "rows"), KEY_MASKED)
def test_where_the_rules_hide_which_rows_are_current_only_all_rows_can_be_read(
    home: Path, dataset: str, column: str, mask: str, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    publish(home / "lake", dataset, rows)
    settings, what = load_settings(home), f"{{dataset: {dataset}, column: {column}}}"
    ask(settings, f"SELECT 1 FROM {dataset}")  # noqa: S608
    rule = f"id: hide, what: {what}, then: {{mask: {mask}}}, reason: test, legal_basis: none, owner: test"
    (home / "governance" / "hide.yaml").write_text(f"version: 1\nrules:\n- {{{rule}}}\n")
    for source in (dataset, f"{dataset}_as_known_at(TIMESTAMP '2026-03-05 12:00')"):
        with pytest.raises(PrivacyError, match="clearly which rows are current") as refused:
            ask(settings, f"SELECT 1 FROM {source}")  # noqa: S608
        assert f"{dataset} ({column}: " in refused.value.where and f"{dataset}_versions" in refused.value.remedy
    with pytest.raises(PrivacyError, match="clearly which rows are current"):
        service = QueryService(settings, audit=Recorder())
        list(service.read(dataset, columns=["patient_id"], principal=OFFICER, purpose="test"))
    assert len(ask(settings, f"SELECT 1 FROM {dataset}_versions")) == len(rows)  # noqa: S608
    assert main(["policy", "check", "--dataset", dataset, "--home", str(home)]) == 0
    assert f"current rows cannot be read, only {dataset}_versions: {column}: " in capsys.readouterr().out
    assert main(["lake", "view", dataset, "--home", str(home)]) == 12


def test_a_relation_whose_current_rows_cannot_be_told_has_the_view_of_all_rows_only() -> None:
    relation = Relation("things", {"id": "BLOB", "version": "BIGINT", "available_at": "TIMESTAMPTZ"}, ("id",), ())
    assert [statement.split()[2] for statement in views(relation)] == [
        '"things_versions"', '"things"', '"things_as_known_at"(moment__)'
    ]  # fmt: skip
    (only,) = views(msgspec.structs.replace(relation, unclear="id: drop"))
    assert only.startswith('CREATE VIEW "things_versions"')


def test_rows_of_before_unfit_key_whose_code_does_not_fit_stop_the_current_rows_until_they_are_published_again(
    home: Path,
) -> None:
    """An earlier release published them without it: its version 1 was shown beside the version 2 that replaced it."""
    row = {
        "encounter_id": "v1." + "c" * 32,
        "patient_id": ONE,
        "code_system": "ICD10CM",
        "version": 1,
        "recorded_at": NOON,
    }
    publish(home / "lake", "condition", [{**row, "code": "I10"}])
    settings, count = load_settings(home), "SELECT count(*) FROM condition"
    assert ask(settings, count) == [1], "a table whose keys are whole is read, with the column or without"
    publish(home / "lake", "condition", [{**row, "code": None, "version": 2, "unfit_key": b"k" * 16}])
    assert ask(settings, count) == [2]
    publish(home / "lake", "condition", [{**row, "code": None}])
    with pytest.raises(PrivacyError, match=r"clearly which rows are current: condition \(unfit_key") as refused:
        ask(settings, count)
    assert "--republish condition" in refused.value.where
    assert ask(settings, "SELECT count(*) FROM condition_versions") == [3]


def test_a_status_of_another_class_stops_the_current_rows_of_a_table_of_before(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset("procedure")
    columns = [replace(c, data_class="care-event") if c.name == "status" else c for c in dataset.columns]
    changed = replace(dataset, columns=tuple(columns))
    publish(home / "lake", "procedure", [{"procedure_id": b"p", "patient_id": ONE, "version": 1, "performed_at": NOON}])
    monkeypatch.setattr(
        "governance.query.catalogue.load_dataset", lambda name: changed if name == "procedure" else load_dataset(name)
    )
    with pytest.raises(PrivacyError, match="status: of class care-event, so that a status can be lost"):
        ask(load_settings(home), "SELECT count(*) FROM procedure")


def test_the_command_answers_as_known_at(settings: Settings, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT value FROM observation_as_known_at(TIMESTAMP '2026-03-01 13:00') ORDER BY value"
    assert main(["sql", sql, "--home", str(home), "--json"]) == 0
    assert '"rows":[[71.0],[72.0]]' in capsys.readouterr().out


@pytest.mark.parametrize("tokens", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("sealed", [(), ("patient_id", "device_id")])
def test_of_rows_that_tie_both_zones_show_the_same_whatever_masks_and_seals_make_of_them(
    tmp_path: Path, tokens: tuple[str, str], sealed: tuple[str, ...]
) -> None:
    rows = [
        {"id": b"o", "version": 1, "patient_id": b"p", "device_id": token.encode(), "value": value, "source": "t[0]"}
        for token, value in zip(tokens, (72.0, 70.0), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    kinds = ("BLOB", "BIGINT", "BLOB", "BLOB", "DOUBLE", "VARCHAR")
    relation = Relation(
        "thing",
        dict(zip(rows[0], kinds, strict=True)),
        key=("id",),
        paths=(str(tmp_path / "rows.parquet"),),
        sealed=sealed,
        identifying=("patient_id", "device_id"),
    )
    with duckdb.connect() as database:
        for statement in views(relation):
            database.execute(statement)
        assert database.execute("SELECT value FROM thing").fetchall() == [(70.0,)]


@pytest.mark.parametrize(("status", "shown"), [("active", 2), ("ended", 2), ("corrected", 2), ("final", 1)])
def test_an_association_told_anew_counts_as_a_correction_does(tmp_path: Path, status: str, shown: int) -> None:
    rows = [
        {"id": b"o", "version": 0, "status": status, "valid_to": told, "available_at": NOON + timedelta(hours=told)}
        for told in (2, 1)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    kinds = ("BLOB", "BIGINT", "VARCHAR", "BIGINT", "TIMESTAMPTZ")
    columns = dict(zip(rows[0], kinds, strict=True))
    relation = Relation("thing", columns, key=("id",), paths=(str(tmp_path / "rows.parquet"),))
    with duckdb.connect() as database:
        for statement in views(relation):
            database.execute(statement)
        assert database.execute("SELECT valid_to FROM thing").fetchall() == [(shown,)]


def test_of_one_patients_things_those_that_a_later_version_gives_to_another_are_not_current(tmp_path: Path) -> None:
    rows = [
        {"subject": subject, "id": thing, "version": version, "status": "final", "available_at": NOON}
        for subject, thing, version in [(b"p", b"kept", 1), (b"p", b"moved", 1), (b"q", b"moved", 2), (b"q", b"own", 1)]
    ]
    paths = [tmp_path / "mine.parquet", tmp_path / "others.parquet"]
    pq.write_table(pa.Table.from_pylist(rows[:2]), paths[0])
    pq.write_table(pa.Table.from_pylist(rows[2:]), paths[1])
    mine, everybody = (str(paths[0]),), tuple(map(str, paths))
    kinds = ("BLOB", "BLOB", "BIGINT", "VARCHAR", "TIMESTAMPTZ")
    relation = Relation(
        "thing",
        dict(zip(rows[0], kinds, strict=True)),
        key=("id",),
        paths=mine,
        others=everybody,
        subject=b"p".hex(),
    )
    with duckdb.connect() as database:
        for statement in views(relation):
            database.execute(statement)
        assert database.execute("SELECT id FROM thing").fetchall() == [(b"kept",)]
        assert database.execute("SELECT id FROM thing_versions ORDER BY 1").fetchall() == [(b"kept",), (b"moved",)]
        noon = NOON.isoformat()
        assert database.execute(f"SELECT id FROM thing_as_known_at('{noon}')").fetchall() == [(b"kept",)]  # noqa: S608


def test_the_view_that_is_printed_for_other_engines_gives_the_current_rows(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--home", str(settings.home)]
    assert main(["lake", "view", "observation", *arguments]) == 0
    rows = DeltaTable(str(settings.home / "lake" / "published" / "observation")).to_pyarrow_table()
    with duckdb.connect() as connection:
        connection.register("observation_versions", rows)
        connection.execute(capsys.readouterr().out)
        found = connection.sql("SELECT value FROM observation WHERE value IS NOT NULL").fetchall()
    assert sorted(value for (value,) in found) == ask(settings, "SELECT value FROM observation") == [99.0]


def test_a_view_of_what_was_never_written_is_printed_and_of_what_is_not_there_refused(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--home", str(settings.home)]
    assert main(["lake", "view", "encounter", "--engine", "spark", *arguments]) == 0
    assert "delta.`" in capsys.readouterr().out
    assert main(["lake", "view", "nothing", *arguments]) == 11
    assert main(["lake", "view", "observation", "--engine", "excel", *arguments]) == 2
    assert "duckdb, spark" in capsys.readouterr().err
