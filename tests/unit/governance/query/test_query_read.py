"""The query service reads current rows of published columns, from one version of the table, and records each read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.access import MissingPermission
from governance.errors import RuleError
from governance.policy.rules import load_policy
from governance.query.catalogue import Catalogue
from governance.query.service import QueryService
from tests.unit.governance.query.query_samples import (
    CLINICIAN,
    NOON,
    OFFICER,
    TWO,
    Recorder,
    observation,
    publish,
    publish_samples,
)
from vitalake.errors import InputError, PrivacyError, ServiceUnavailable, SettingsError
from vitalake.keys import load_keys
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings, load_settings


@pytest.fixture
def settings(home: Path) -> Settings:
    publish_samples(home / "lake")
    return load_settings(home)


def _read(settings: Settings, dataset: str = "observation", **options: Any) -> pa.Table:
    audit = options.pop("audit", Recorder())
    options = {"columns": ["observation_id", "value"], "principal": OFFICER, "purpose": "train-test", **options}
    return pa.Table.from_batches(QueryService(settings, audit=audit).read(dataset, **options))


def _values(table: pa.Table) -> dict[int, Any]:
    return {row["observation_id"][-1]: row["value"] for row in table.to_pylist()}


def test_each_thing_is_read_once_in_its_highest_version_and_not_if_taken_back(settings: Settings) -> None:
    table = _read(settings)
    assert table.num_rows == 4
    assert _values(table) == {1: 71.0, 2: 99.0, 4: 74.0, 5: 75.0}


@pytest.mark.parametrize("name", ["restricted_observation", "restricted_patient"])
def test_identified_rows_are_no_dataset_that_is_published(settings: Settings, name: str) -> None:
    """Whoever may read published rows could read identified rows by their name."""
    audit = Recorder()
    with pytest.raises(InputError, match="No such dataset is published"):
        _read(settings, name, columns=["version"], audit=audit)
    catalogue = QueryService(settings, audit=audit).catalogue
    with pytest.raises(InputError, match="No such dataset"), catalogue.relations(["observation", name]):
        pass
    with catalogue.relations(["observation", name], identified=True) as relations:
        assert [relation.name for relation in relations] == ["observation", name]
    assert audit.events == []


@pytest.mark.parametrize("name", ["restricted_patient", "patient_versions", "patient_as_known_at"])
def test_two_relations_of_one_name_are_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    declared = {**{each: load_dataset(each) for each in published_datasets()}}
    declared[name] = replace(declared["procedure"], name=name, restricted=False)
    monkeypatch.setattr("governance.query.catalogue.published_datasets", lambda: [*declared])
    monkeypatch.setattr("governance.query.catalogue.load_dataset", declared.__getitem__)
    with pytest.raises(SettingsError, match=f"Two relations have one name: {name}, of the datasets"):
        QueryService(settings, audit=Recorder())


def test_of_equal_versions_the_one_known_first_is_read_and_position_decides_last(settings: Settings) -> None:
    columns = ["observation_id", "value", "source", "available_at"]
    first = next(row for row in _read(settings, columns=columns).to_pylist() if row["observation_id"][-1] == 1)
    assert (first["source"], first["available_at"] < NOON.replace(hour=13)) == ("vitals[0]", True)


def test_only_rows_with_one_of_the_values_are_read(settings: Settings) -> None:
    assert _values(_read(settings, where={"code": ["2708-6"]})) == {4: 74.0}
    assert _values(_read(settings, where={"patient_id": [TWO, "v1.x' OR true"], "code": ["8867-4"]})) == {2: 99.0}
    assert _values(_read(settings, where={"code": []})) == {}


def test_reading_is_recorded_before_the_first_batch(settings: Settings) -> None:
    audit = Recorder()
    batches = QueryService(settings, audit=audit).read(
        "observation", columns=["value"], principal=OFFICER, purpose="train-mortality", where={"code": ["8867-4"]}
    )
    rules = load_policy(settings.path(settings.governance)).version
    detail = {"dataset": "observation", "columns": "value", "purpose": "train-mortality", "where": "code"}
    detail |= {"classes": "measurement,measurement-code", "rules": rules}
    assert [(event.action, event.actor, event.detail) for event in audit.events] == [("train", "officer", detail)]
    assert sum(batch.num_rows for batch in batches) == 3


def test_without_permission_or_record_nothing_is_read(settings: Settings) -> None:
    audit = Recorder()
    with pytest.raises(MissingPermission):
        _read(settings, principal=CLINICIAN, audit=audit)
    assert [(event.action, event.detail) for event in audit.events] == [("denied", {"permission": "sql:query"})]
    audit.full = True
    with pytest.raises(ServiceUnavailable, match="Audit cannot be written"):
        _read(settings, audit=audit)


def test_what_is_not_published_cannot_be_read_and_is_not_echoed(settings: Settings) -> None:
    asked: list[dict[str, Any]] = [
        {"columns": ["value_text"]}, {"columns": []}, {"where": {"value_text": ["x"]}}, {"dataset": "spans"},
        {"dataset": "dead_letter"}, {"columns": ['value" FROM x --']},
    ]  # fmt: skip
    for options in asked:
        with pytest.raises(InputError) as caught:
            _read(settings, **options)
        assert "value_text" not in str(caught.value)
        assert "--" not in str(caught.value)


def test_a_value_of_another_type_than_its_column_is_refused_and_not_shown(settings: Settings) -> None:
    for where in ({"value": ["Zz-4711"]}, {"effective_at": ["Zz-4711"]}, {"version": ["Zz-4711"]}):
        with pytest.raises(InputError, match="not of its column's type") as refused:
            _read(settings, where=where)
        assert "Zz" not in str(refused.value)
    assert _read(settings, where={"code": [8867]}).num_rows == 0, "a number is a text, too; no column is converted"


@pytest.mark.parametrize("purpose", ["", "Prüfung", "who's", "x" * 1_001, "a\nb", "v1." + "a" * 32])
def test_a_purpose_that_is_no_code_is_refused_before_anything_is_read(settings: Settings, purpose: str) -> None:
    with pytest.raises(InputError, match="Purpose is not a code"):
        _read(settings, purpose=purpose)


def test_a_wide_dataset_is_recorded_without_its_list_of_columns(settings: Settings, monkeypatch: Any) -> None:
    recorder = Recorder()
    monkeypatch.setattr("governance.query.service.MOST_COLUMN_CHARACTERS", 10)
    service = QueryService(settings, audit=recorder)
    list(service.read("observation", columns=["value", "unit", "code"], principal=OFFICER, purpose="test"))
    assert recorder.events[-1].detail["columns"] == "all"
    assert "measurement" in recorder.events[-1].detail["classes"]


def test_a_column_that_the_rules_no_longer_publish_is_not_offered_though_files_hold_it(
    settings: Settings, home: Path
) -> None:
    assert _read(settings, columns=["unit"]).num_rows == 4
    (home / "governance/stricter.yaml").write_text(
        "version: 1\nrules:\n  - {id: no-units, what: {column: unit}, then: {mask: drop}, reason: x, legal_basis: x, "
        "owner: x}\n"
    )
    with pytest.raises(InputError, match="No such column"):
        _read(settings, columns=["unit"])
    (home / "governance/stricter.yaml").write_text(
        "version: 1\nrules:\n  - {id: no-versions, what: {column: version}, then: {mask: drop}, reason: x, "
        "legal_basis: x, owner: x}\n"
    )
    with pytest.raises(PrivacyError, match="clearly which rows are current"):
        _read(settings)
    for path in (home / "governance").iterdir():
        path.unlink()
    with pytest.raises(RuleError):
        _read(settings)


def test_files_that_are_not_part_of_the_table_are_not_read(settings: Settings, home: Path) -> None:
    table = next((home / "lake/published/observation").glob("day=*/*.parquet"))
    pq.write_table(pq.read_table(table, partitioning=None), table.with_name("orphan.parquet"))
    assert _read(settings).num_rows == 4


def test_a_dataset_of_which_nothing_is_published_is_empty_and_is_not_made_by_looking(
    settings: Settings, home: Path
) -> None:
    table = _read(settings, "encounter", columns=["encounter_id", "age_at_admission", "admitted_at"])
    assert table.num_rows == 0
    assert table.schema.types == [pa.string(), pa.int64(), pa.timestamp("us", "UTC")]
    assert not (home / "lake/published/encounter").exists()


def test_things_without_a_key_count_as_one_thing(home: Path) -> None:
    for version in (1, 2):
        publish(home / "lake", "observation", [observation(1, float(version), observation_id=None, version=version)])
    assert _read(load_settings(home), columns=["value"]).to_pydict() == {"value": [2.0]}


def test_relations_name_the_files_of_the_snapshot(settings: Settings, home: Path) -> None:
    catalogue = Catalogue(settings, load_keys(home / "keys.yaml"))
    with catalogue.relations(["observation", "patient"]) as relations:
        assert [(relation.key, len(relation.paths)) for relation in relations] == [
            (("observation_id",), 2),
            (("patient_id",), 1),
        ]
        assert all(Path(path).is_file() for relation in relations for path in relation.paths)
        assert "value_text" not in relations[0].columns


def test_a_lake_elsewhere_is_fetched_for_as_long_as_it_is_read(
    settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "governance.query.catalogue.open_storage", lambda uri, options: replace(open_storage(uri, options), local=False)
    )
    with Catalogue(settings, load_keys(home / "keys.yaml")).relations(["observation"]) as relations:
        paths = [Path(path) for path in relations[0].paths]
        assert all(path.is_file() and not path.is_relative_to(home) for path in paths)
    assert not any(path.exists() for path in paths)
    assert _values(_read(settings)) == {1: 71.0, 2: 99.0, 4: 74.0, 5: 75.0}
