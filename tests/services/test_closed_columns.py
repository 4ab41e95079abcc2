"""Words where codes belong, deaths by the codes hospitals bill with, identifiers as warehouses write them: end to end.

Through the embedded broker and the command, and through a warehouse without a file; one home for all of them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from confluent_kafka import Producer

from governance.belonging import open_vault
from governance.home import init_home
from governance.keyservice import KeyRevoked
from governance.samples import copy_samples
from governance.vault.sealed_rows import WORDS as SEALED
from pipelines.intake.steps import make_sealer
from pipelines.republish.republish import republish
from pipelines.simulator.broker import EmbeddedBroker, ensure_topic
from tests import forking, frozen
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import load_settings

NUBC = "https://www.nubc.org/CodeSystem/PatDischargeStatus"
WORDS = ("Zzmarker", "555-0100")
_STAY = {"start": "2026-02-20T10:00:00Z", "end": "2026-03-01T10:00:00Z"}


def _encounter(name: str, system: str | None, code: str | None, **more: Any) -> dict[str, Any]:
    coding = {"system": system, "code": code} if system else {"code": code}
    stay = {"dischargeDisposition": {"coding": [coding]}} if code else {}
    return {
        "resourceType": "Encounter", "id": name, "status": "finished", "class": {"code": "IMP"},
        "subject": {"reference": "Patient/p1"}, "period": _STAY, "hospitalization": stay, **more,
    }  # fmt: skip


def _condition(name: str, code: str, system: str = "http://hl7.org/fhir/sid/icd-10-cm") -> dict[str, Any]:
    return {
        "resourceType": "Condition", "id": name, "subject": {"reference": "Patient/p1"},
        "encounter": {"reference": f"Encounter/{name}"}, "recordedDate": "2026-03-01T10:00:00Z",
        "code": {"coding": [{"system": system, "code": code}]},
    }  # fmt: skip


R5 = {
    "resourceType": "Encounter", "id": "r5", "status": "completed", "subject": {"reference": "Patient/p1"},
    "class": [{"coding": [{"code": "EMER"}]}], "actualPeriod": _STAY,
    "admission": {"dischargeDisposition": {"coding": [{"system": NUBC, "code": "20"}]}},
}  # fmt: skip

MESSAGES = {
    "encounter": [
        _encounter("e1", NUBC, "20"),
        _encounter("e2", NUBC, "01"),
        _encounter("e3", "http://terminology.hl7.org/CodeSystem/v2-0112", "41"),
        _encounter("e4", "http://snomed.info/sct", "419099009"),
        _encounter("e5", "urn:a-hospital", "20"),
        _encounter("e6", None, "exp"),
        _encounter("e7", None, f"Home, call son {WORDS[1]}"),
        _encounter("e8", None, None),
        R5,
    ],
    "condition": [
        _condition("c1", f"I10 pt {WORDS[0]} tel {WORDS[1]}"),
        _condition("c2", "I50.9"),
        _condition("c3", "5550100", "http://snomed.info/sct"),
        _condition("c4", f"J44 of {WORDS[0]}"),
    ],
}

# The last stay's number is 4711 with zeros behind the point; one in three hundred has words where categories belong.
ENCOUNTERS = """
SELECT CAST(i + 0.00 AS DECIMAL(18, 2)) AS encounter_id, 1 AS version, CAST(4412 + i AS DECIMAL(18, 3)) AS patient_id,
    TIMESTAMP '2026-02-28 12:00:00' AS admitted_at,
    CASE i WHEN 1 THEN 'emergency: Zzmarker' ELSE 'ed' END AS admission_type,
    CASE i WHEN 1 THEN 'Home, call son 555-0100' WHEN 2 THEN 'died' ELSE 'Home' END AS discharge_disposition,
    TIMESTAMP '2026-03-01 12:00:00' AS available_at
FROM range(1, 300) r(i) ORDER BY i
"""
WARDS = """
SELECT encounter_id, 1 AS version, 'p1' AS patient_id, TIMESTAMP '2026-02-28 12:00:00' AS in_at, unit,
    'icu' AS unit_category, TIMESTAMP '2026-02-28 12:00:00' AS available_at
FROM read_csv('wards.csv') ORDER BY encounter_id
"""
_CSV = f"encounter_id,unit\nw1,Medicine\nw2,of {WORDS[0]}\nw3,ICU 9 North\n"


def _run(home: Path, *arguments: str, expect: int = 0) -> str:
    done = subprocess.run(
        forking.command("vitalake", *arguments, "--home", str(home), kind="history"),
        capture_output=True, text=True, timeout=180, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == expect, done.stderr[-3000:]
    assert not [word for word in WORDS if word in done.stdout + done.stderr]
    return done.stdout


def _send(bootstrap: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})  # ends before the broker does
    for topic, messages in MESSAGES.items():
        ensure_topic(bootstrap, topic, 1)
        for message in messages:
            producer.produce(topic, msgspec.json.encode(message))
    assert producer.flush(20) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("closed") / "home"
    init_home(folder, copy_samples)
    with EmbeddedBroker() as broker:
        _send(broker.bootstrap_servers)
        configuration = {
            "kafka": {"bootstrap_servers": broker.bootstrap_servers},
            "jobs": {name: {"topics": {name: "fhir"}, "dataset": name} for name in MESSAGES},
            "observability": {"port": 0},
        }
        (folder / "vitalake.yaml").write_text(yaml.safe_dump(configuration))
        for name in MESSAGES:
            _run(folder, "stream", "--job", name, "--until-idle", "1s", "--json")
    (folder / "encounter.sql").write_text(ENCOUNTERS)
    (folder / "ward_movement.sql").write_text(WARDS)
    (folder / "wards.csv").write_text(_CSV)
    job = {"source": "csv", "warehouse": "duckdb::memory:",
           "datasets": {name: f"{name}.sql" for name in ("encounter", "ward_movement")}}  # fmt: skip
    (folder / "csv.yaml").write_text(yaml.safe_dump(job))
    _run(folder, "history", "load", str(folder / "csv.yaml"))
    yield folder


def _rows(home: Path, dataset: str, zone: str = "published") -> list[dict[str, Any]]:
    lake = Lake(load_settings(home).lake_uri, {}, dataset=dataset)
    table = lake.published if zone == "published" else lake.restricted
    rows: list[dict[str, Any]] = table.delta.to_pyarrow_table().to_pylist()
    return rows


def _live(home: Path, dataset: str) -> list[dict[str, Any]]:
    return [row for row in _rows(home, dataset) if not str(row["source"]).startswith("csv.")]


def test_deaths_are_expired_by_whatever_code_says_so_and_nothing_is_other_in_silence(home: Path) -> None:
    found = sorted(str(row["discharge_disposition"]) for row in _live(home, "encounter"))
    assert found == sorted(["Expired"] * 5 + ["Home"] + ["None"] * 3)
    assert {row["admission_type"] for row in _live(home, "encounter")} == {None, "ed"}, "R5's class is a list"


def test_words_and_numbers_where_a_diagnosis_belongs_are_not_published(home: Path) -> None:
    found = {(row["code_system"], row["code"]) for row in _live(home, "condition")}
    assert found == {("ICD10CM", None), ("ICD10CM", "I509"), ("SNOMEDCT", None)}
    kept = {row["code"] for row in _rows(home, "condition", "restricted")}
    assert "I509" in kept
    assert len([code for code in kept if code.startswith(SEALED)]) == 3
    assert f"I10 pt {WORDS[0]} tel {WORDS[1]}" in _opened(home, "condition", "code")


def test_of_diagnoses_whose_codes_do_not_fit_none_hides_another(home: Path) -> None:
    counts = "SELECT code_system, count(*) FROM condition GROUP BY code_system ORDER BY code_system"
    assert msgspec.json.decode(_run(home, "sql", counts, "--json"))["rows"] == [["ICD10CM", 3], ["SNOMEDCT", 1]]


def test_no_word_is_readable_without_its_patients_key_in_any_file_of_the_lake(home: Path) -> None:
    assert frozen.traces(home, ["I509"])  # so the search does find what is there
    assert frozen.traces(home, WORDS) == []
    assert {"emergency: Zzmarker", "ed"} <= _opened(home, "encounter", "admission_type")
    assert f"of {WORDS[0]}" in _opened(home, "ward_movement", "unit")
    _run(home, "keys", "revoke")
    with pytest.raises(KeyRevoked):
        _opened(home, "ward_movement", "unit")
    assert frozen.traces(home, WORDS) == []
    _run(home, "keys", "revoke", "--undo")


def _opened(home: Path, dataset: str, column: str) -> set[Any]:
    """Return what stands in a column of identified rows, opened by patients' keys."""
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    with closing(open_vault(settings, keys)) as vault:
        table = Lake(settings.lake_uri, {}, dataset=dataset).restricted
        return set(make_sealer(load_dataset(dataset), vault, keys).open(table.scan())[column].to_pylist())


def test_what_is_not_published_is_counted_by_its_column_and_the_ledger_balances(home: Path) -> None:
    summary = msgspec.json.decode(_run(home, "ledger", "--json"))
    assert summary["balanced"] is True
    assert summary["unfit"] == {
        "condition.code": 3,
        "encounter.admission_type": 1,
        "encounter.discharge_disposition": 3,
        "ward_movement.unit": 2,
    }
    assert summary["by_job"]["condition"]["unfit"] == {"condition.code": 3}
    assert "published without the text sent in ward_movement.unit: 2 rows" in _run(home, "ledger")


def test_a_warehouse_without_a_file_leaves_none_and_its_categories_are_clifs(home: Path) -> None:
    assert not list(home.rglob("*memory*"))
    rows = [row for row in _rows(home, "encounter") if str(row["source"]).startswith("csv.")]
    assert len(rows) == 299
    assert {row["admission_type"] for row in rows} == {"ed", None}
    assert sorted({str(row["discharge_disposition"]) for row in rows}) == ["Expired", "Home", "None"]


def test_a_decimal_identifier_is_the_number_without_its_zeros(home: Path) -> None:
    from governance.policy.masks import Pseudonyms

    token = Pseudonyms(load_keys(home / "keys.yaml"), "patient-identifier").token("4711")
    assert [row["patient_id"] for row in _rows(home, "encounter")].count(token) == 1


def test_no_word_is_in_any_byte_of_what_is_published(home: Path) -> None:
    files = [path for path in (home / "lake" / "published").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        assert not [word for word in WORDS if word.encode() in path.read_bytes()], path.name


def test_a_ward_is_published_once_it_stands_in_the_list_and_words_are_not(home: Path) -> None:
    assert {row["unit"] for row in _rows(home, "ward_movement")} == {"Medicine", None}
    (home / "governance" / "wards.yaml").write_text("version: 1\nlists: {wards: [Medicine, ICU 9 North]}\n")
    done = republish(load_settings(home), "ward_movement")
    assert (done.rows_after, done.unfit) == (3, {"unit": 1})
    assert {row["unit"] for row in _rows(home, "ward_movement")} == {"Medicine", "ICU 9 North", None}


@pytest.mark.parametrize("expression", ["true", "'101'::BIT", "4711.5::DECIMAL(8, 2)", "4711.0::DOUBLE", "'{}'::BLOB",
    "TIMESTAMP '2026-03-01 10:00:00'", "[1]"])  # fmt: skip
def test_what_is_no_identifier_is_refused_by_name(home: Path, expression: str) -> None:
    from pipelines.history.load import load_history
    from vitalake.errors import InputError

    query = ENCOUNTERS.replace("CAST(4412 + i AS DECIMAL(18, 3))", expression)
    (home / "bad.sql").write_text(query)
    (home / "bad.yaml").write_text("source: bad\nwarehouse: 'duckdb::memory:'\ndatasets: {encounter: bad.sql}\n")
    with pytest.raises(InputError, match="not of type string") as caught:
        load_history(load_settings(home), str(home / "bad.yaml"))
    assert caught.value.where == "bad.encounter: patient_id"


def test_an_empty_list_is_named_by_doctor(home: Path) -> None:
    path = home / "governance" / "wards.yaml"
    kept = path.read_text()
    path.write_text("version: 1\nlists: {wards: []}\n")
    assert "empty lists: wards" in _run(home, "doctor", expect=14), "the broker is gone"
    path.write_text(kept)


def test_a_source_named_in_words_is_refused(home: Path) -> None:
    (home / "bad.yaml").write_text(f"source: ward of {WORDS[0]}\nwarehouse: 'duckdb::memory:'\ndatasets: {{}}\n")
    _run(home, "history", "load", str(home / "bad.yaml"), expect=10)
