"""A laboratory's codes that nobody has mapped: dead letters, until the home's vocabulary is extended, then replayed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import yaml

from pipelines.history.load import load_history
from tests import forking
from tests.fhir import message
from tests.services.lane import LaneUnderTest
from tests.vocabularies import LAB
from vitalake.lake.maintenance.verify import verify
from vitalake.settings import load_settings

CITY = "http://city.example/lab"
DECLARED = LAB.replace("      GLU:", "      NA: {loinc: 2951-2, source: directory of 2026-01}\n      GLU:")


def sodium(number: int, code: str = "NA") -> bytes:
    """Return a result of the laboratory."""
    quantity = {"value": 140.0, "system": "http://unitsofmeasure.org", "code": "mmol/L"}
    return message(number, code={"coding": [{"system": CITY, "code": code}]}, valueQuantity=quantity)


def vitalake(home: Path, *arguments: str, expect: int = 0) -> tuple[dict[str, Any], str]:
    """Run a command of the home; return what it printed as JSON, and what it wrote to standard error."""
    command = forking.command("vitalake", *arguments, "--home", str(home), "--json")
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == expect, done.stderr[-3000:]
    return msgspec.json.decode(done.stdout) if done.stdout else {}, done.stderr


def write(home: Path, text: str) -> Path:
    """Write the home's vocabulary."""
    path = home / "vocabulary" / "lab.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_code_that_is_declared_later_is_published_by_a_replay(
    home: Path, embedded_broker: str, topic_name: str
) -> None:
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_seconds=0.2)
    lane.create_topic()
    path = write(home, LAB)
    lane.send([sodium(1), sodium(2), sodium(3, "Doe, Jane"), message(4)])
    lane.run()
    ledger, _ = vitalake(home, "ledger")
    assert (ledger["published"], ledger["rejected"]) == (1, 3)
    assert (ledger["mapped"], ledger["unmapped"]) == ({}, {f"{CITY}|NA": 2})
    done, _ = vitalake(home, "dead-letters", "replay")
    assert (done["recovered"], done["reasons"]) == (0, {"unknown-code": 3})

    write(home, DECLARED.replace("2951-2", "2951-9"))  # a slip of the finger: everything stays as it was
    _, errors = vitalake(home, "dead-letters", "replay", expect=10)
    assert f"{path}:15 (local.99LAB.codes.NA.loinc)" in errors
    assert "Doe" not in errors

    write(home, DECLARED)
    lane.send([sodium(5)])
    lane.run()
    done, _ = vitalake(home, "dead-letters", "replay")
    assert (done["recovered"], done["rejected_again"]) == (2, 1)
    rows = lane.published().to_pylist()
    assert sorted(row["code"] for row in rows) == ["2951-2", "2951-2", "2951-2", "8867-4"]
    assert {(row["value"], row["unit"]) for row in rows if row["code"] == "2951-2"} == {(140.0, "mmol/L")}
    ledger, _ = vitalake(home, "ledger")
    assert ledger["balanced"] is True
    assert (ledger["published"], ledger["recovered"]) == (2, 2)
    assert (ledger["mapped"], ledger["unmapped"]) == ({f"{CITY}|NA → 2951-2": 3}, {})
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []
    again, _ = vitalake(home, "dead-letters", "replay")
    assert (again["recovered"], again["open"]) == (0, 1)


def test_rows_of_a_warehouse_with_local_codes_are_published_and_recovered(home: Path) -> None:
    with duckdb.connect(str(home / "lab.duckdb")) as warehouse:
        warehouse.execute(
            "CREATE TABLE results AS SELECT i AS id, i % 5 AS person, TIMESTAMP '2020-01-01' + to_minutes(i) AS taken, "
            "CASE WHEN i % 2 = 0 THEN 'GLU' ELSE 'NA' END AS code, 140.0 AS value, "
            "CASE WHEN i % 2 = 0 THEN NULL ELSE 'mmol/L' END AS unit FROM range(20) t(i)"
        )
    (home / "observation.sql").write_text(
        "SELECT 'urn:city' AS identity_system, CAST(id AS varchar) AS identity_value, 0 AS version, "
        "CAST(person AS varchar) AS patient_id, '99LAB|' || code AS code, value, unit, 'final' AS status, "
        "taken AS effective_at FROM results ORDER BY taken, id"
    )
    job = {"source": "city", "warehouse": f"duckdb:{home / 'lab.duckdb'}", "max_rejected": 0.6}
    (home / "own.yaml").write_text(yaml.safe_dump(job | {"datasets": {"observation": "observation.sql"}}))
    write(home, LAB)
    assert load_history(load_settings(home), str(home / "own.yaml")) == 20
    ledger, _ = vitalake(home, "ledger")
    assert (ledger["published"], ledger["rejected"]) == (10, 10)
    assert (ledger["mapped"], ledger["unmapped"]) == ({"99LAB|GLU → 2345-7": 10}, {"99LAB|NA": 10})

    write(home, DECLARED)
    done, _ = vitalake(home, "dead-letters", "replay")
    assert (done["recovered"], done["rejected_again"]) == (10, 0)
    rows = LaneUnderTest(home, "127.0.0.1:9", "vitals").published().to_pylist()
    assert sorted({(row["code"], row["unit"]) for row in rows}) == [("2345-7", "mg/dL"), ("2951-2", "mmol/L")]
    ledger, _ = vitalake(home, "ledger")
    assert ledger["mapped"] == {"99LAB|GLU → 2345-7": 10, "99LAB|NA → 2951-2": 10}
    assert ledger["unmapped"] == {}
    assert ledger["balanced"] is True


def test_doctor_says_what_is_declared_where_and_what_does_not_hold(home: Path) -> None:
    def finding() -> dict[str, Any]:
        command = forking.command("vitalake", "doctor", "--home", str(home), "--json")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        checks = msgspec.json.decode(done.stdout)["checks"]
        (found,) = [check for check in checks if check["name"] == "declared vocabulary"]
        return found | {"code": done.returncode}

    assert finding()["finding"].endswith("the home declares none of its own")
    path = write(home, LAB)
    assert finding()["finding"].endswith(
        "the home declares vocabulary/lab.yaml: 1 codes, 3 units, 1 local systems, 2 local codes, 1 forms"
    )
    path.write_text(LAB.replace("U/L, low", "U/l, low"))
    found = finding()
    assert (found["result"], found["exit_code"], found["code"]) == ("fail", 10, 10)
    assert f"{path}:2 (codes.2157-6.unit)" in found["finding"]
