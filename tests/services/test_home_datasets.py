"""A dataset that a home declares goes every way that the project's go: warehouse, feed, rewrite, check, erasure."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from pipelines.history.load import load_history
from pipelines.republish.republish import republish
from tests.attribution import Ward
from tests.forking import command
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.datasets import declared
from vitalake.lake.maintenance.verify import verify
from vitalake.settings import load_settings

DECLARED = """\
name: answer
kind: record
key: [answer_id, version]
day_of: answered_at
fhir: {resource: QuestionnaireResponse, skip: "status = 'in-progress'"}
columns:
  - {name: answer_id, type: binary, class: record-identifier, hashed: true, description: "hash of the response's id"}
  - {name: patient_id, type: string, class: patient-identifier, fhir: subject, description: "who answered"}
  - {name: status, type: string, class: record-version, values: [completed, amended, entered-in-error], fhir: status, description: "FHIR status"}
  - {name: score, type: float64, class: measurement, fhir: "item.where(linkId = 'total').answer.value.ofType(integer)", description: "points"}
  - {name: comment, type: string, class: free-text, fhir: "item.where(linkId = 'comment').answer.value.ofType(string)", description: "in the patient's words"}
  - {name: answered_at, type: timestamp, class: date-of-service, statistics: true, fhir: authored, description: "when"}
"""  # noqa: E501
PEOPLE = ("90417731", "90417732")
WORDS = "Zzname of the night shift"


@pytest.fixture
def ward(home: Path) -> Ward:
    """A home that declares a dataset."""
    (home / "datasets").mkdir()
    (home / "datasets" / "answer.yaml").write_text(DECLARED)
    return Ward(home)


def _response(number: int, patient: str, at: str, **changes: object) -> bytes:
    document: dict[str, Any] = {
        "resourceType": "QuestionnaireResponse",
        "id": f"r{number}",
        "status": "completed",
        "subject": {"reference": f"Patient/{patient}"},
        "authored": at,
        "item": [
            {"linkId": "total", "answer": [{"valueInteger": number}]},
            {"linkId": "comment", "answer": [{"valueString": WORDS}]},
        ],
    }
    return json.dumps(document | changes).encode()


def _run(ward: Ward, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = command("vitalake", *arguments, "--home", str(ward.home))
    return subprocess.run(words, capture_output=True, text=True, check=False)


def _warehouse(ward: Ward) -> None:
    with duckdb.connect(str(ward.home / "city.duckdb")) as db:
        db.execute("CREATE TABLE answers (no VARCHAR, person VARCHAR, words VARCHAR, given TIMESTAMP)")
        given = ward.at(0).replace(tzinfo=None)
        db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", ["w1", PEOPLE[0], WORDS, given])
    (ward.home / "answer.sql").write_text(
        "SELECT no AS answer_id, 1 AS version, person AS patient_id, 'completed' AS status, 7.0 AS score, "
        "words AS comment, given AS answered_at FROM answers ORDER BY given, no"
    )
    job = "source: city\nwarehouse: duckdb:city.duckdb\ndatasets: {answer: answer.sql}\n"
    (ward.home / "city.yaml").write_text(job)


def _rows(ward: Ward) -> list[dict[str, Any]]:
    lake = Lake(ward.settings.lake_uri, {}, dataset="answer")
    return sorted(lake.published.delta.to_pyarrow_table().to_pylist(), key=lambda row: row["score"])


def test_it_is_masked_counted_rewritten_verified_and_forgotten_like_any_other(ward: Ward) -> None:
    _warehouse(ward)
    assert _run(ward, "history", "load", str(ward.home / "city.yaml")).returncode == 0
    came = ward.begin + timedelta(minutes=1)
    at = ward.begin.isoformat()
    messages = [
        _response(1, PEOPLE[0], at),
        _response(2, PEOPLE[1], at),
        _response(3, PEOPLE[1], at, status="in-progress"),
        _response(4, PEOPLE[1], at, status="Zzname, phone 555"),
        _response(5, PEOPLE[1], "yesterday"),
    ]
    ward.send("answer", [(came, messages)], refused=2)
    counts = summarise(Lake(ward.settings.lake_uri, {}).spans).total.counts
    assert (counts.messages, counts.decoded, counts.undecodable) == (6, 4, 2)
    assert (counts.rows, counts.published) == (3, 3)

    first = _rows(ward)
    assert [row["score"] for row in first] == [1, 2, 7]
    assert [row["comment"] for row in first] == [None] * 3
    one, two, three = (row["patient_id"] for row in first)
    assert one == three != two, "both lanes give a patient one pseudonym"
    text = b"".join(path.read_bytes() for path in (ward.home / "lake").rglob("*") if path.is_file())
    assert not [word for word in (*PEOPLE, "Zzname") if word.encode() in text]

    assert republish(ward.settings, "answer").rows_after == 3
    assert _rows(ward) == first, "what is restricted is enough to publish it again"
    assert verify(Lake(ward.settings.lake_uri, {})) == []

    said = _run(ward, "patient", "erase", PEOPLE[0], "--yes", "--reason", "R-1")
    assert said.returncode == 0, said.stderr
    assert {row["patient_id"] for row in _rows(ward)} == {two}
    restricted = Lake(ward.settings.lake_uri, {}, dataset="answer").restricted.delta.to_pyarrow_table()
    assert restricted.num_rows == 1


def test_nobody_is_erased_while_a_table_has_no_declaration(ward: Ward) -> None:
    """The erasure passed the table over, and its certificate did not say so."""
    ward.send("answer", [(ward.begin + timedelta(minutes=1), [_response(1, PEOPLE[0], ward.begin.isoformat())])])
    declared = ward.home / "datasets" / "answer.yaml"
    away = declared.rename(ward.home / "answer.yaml")
    said = _run(ward, "patient", "erase", PEOPLE[0], "--yes", "--reason", "R-2")
    assert said.returncode == 10
    assert "A table has no declaration: published/answer" in said.stderr.replace("\n", " ")
    away.rename(declared)
    assert len(_rows(ward)) == 1, "and nothing was destroyed"
    assert _run(ward, "patient", "erase", PEOPLE[0], "--yes", "--reason", "R-2").returncode == 0
    assert _rows(ward) == []


def test_a_declaration_that_does_not_hold_stops_the_command_and_changes_nothing(ward: Ward) -> None:
    _warehouse(ward)
    (ward.home / "datasets" / "answer.yaml").write_text(DECLARED.replace("type: float64", "type: number"))
    said = _run(ward, "history", "load", str(ward.home / "city.yaml"))
    assert said.returncode == 10
    assert "answer.yaml:10 (columns.3.type)" in said.stderr.replace("\n", "")
    assert not (ward.home / "lake").exists()


OLD_NAMES = [
    ("name: at, type: timestamp, class: date-of-service", "given AS at"),
    ("name: mrn, type: string, class: medical-record-number", "no AS mrn"),
    ("name: stay, type: string, class: encounter-identifier", "no AS stay"),
]
"""Columns that a new dataset may not have, and that earlier releases took; and how a query gives them."""


@pytest.mark.parametrize(("column", "given"), OLD_NAMES)
def test_a_table_of_before_a_refusal_is_read_and_erased_from_and_a_new_one_is_not_made(
    ward: Ward, column: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _warehouse(ward)
    stay = '  - {name: encounter_id, type: string, class: encounter-identifier, description: "stay"}\n'
    (ward.home / "datasets" / "answer.yaml").write_text(f'{DECLARED}{stay}  - {{{column}, description: "x"}}\n')
    sql = ward.home / "answer.sql"
    sql.write_text(sql.read_text().replace("SELECT no AS answer_id,", f"SELECT no AS answer_id, {given},"))
    job = str(ward.home / "city.yaml")
    new = _run(ward, "history", "load", job)
    assert new.returncode == 10 and "answer.yaml:" in new.stderr, new.stderr
    assert _run(ward, "policy", "check").returncode == 10
    assert "answer" not in str(list((ward.home / "lake").rglob("*")))

    with monkeypatch.context() as before:  # as the release before did
        before.setattr(declared, "_problems_of_new", lambda dataset: iter(()))
        load_settings(ward.home)
        load_history(ward.settings, job)
    load_settings(ward.home)
    assert _run(ward, "policy", "check").returncode == 0
    counted = _run(ward, "sql", "SELECT count(*) FROM answer", "--json")
    assert msgspec.json.decode(counted.stdout)["rows"] == [[1]], counted.stderr
    assert _run(ward, "history", "load", job).returncode == 0
    erased = _run(ward, "patient", "erase", PEOPLE[0], "--reason", "request 17", "--yes")
    assert erased.returncode == 0, erased.stderr
    assert msgspec.json.decode(_run(ward, "sql", "SELECT count(*) FROM answer", "--json").stdout)["rows"] == [[0]]


def test_a_form_that_is_refused_by_now_stops_no_reading_and_no_erasure(ward: Ward) -> None:
    """A pattern that a release before took locked the home: it could neither be verified nor erased from."""
    _warehouse(ward)
    data, words = ward.home / "datasets" / "answer.yaml", ward.home / "vocabulary" / "own.yaml"
    data.write_text(f"{DECLARED}  - {{name: place, type: string, class: care-location, form: room, description: x}}\n")
    words.parent.mkdir()
    sql, job = ward.home / "answer.sql", str(ward.home / "city.yaml")
    sql.write_text(sql.read_text().replace("7.0 AS score", "'50505' AS place, 7.0 AS score"))

    def declare(pattern: str) -> None:
        words.write_text(f"forms:\n  room: {{form: '{pattern}', source: x}}\n")

    declare("[0-9]{5}")
    new = _run(ward, "policy", "check")
    assert new.returncode == 10 and "own.yaml:2 (forms.room.form)" in new.stderr, new.stderr
    loaded = _run(ward, "history", "load", job)
    assert loaded.returncode == 10 and "own.yaml:2 (forms.room.form)" in loaded.stderr, loaded.stderr
    assert not list((ward.home / "lake").rglob("answer"))

    declare("50[0-9]{3}")  # as this release takes it, in the place of [0-9]{5} in the release before
    assert _run(ward, "history", "load", job).returncode == 0
    declare("[0-9]{5}")
    places = msgspec.json.decode(_run(ward, "sql", "SELECT place FROM answer", "--json").stdout)["rows"]
    assert places == [["50505"]], "what is published stays until it is published again"
    for words_of in (["lake", "verify"], ["patient", "show", PEOPLE[0]]):
        done = _run(ward, *words_of)
        assert done.returncode == 0, done.stderr
    for words_of in (["policy", "check", "--dataset", "answer"], ["doctor"]):
        done = _run(ward, *words_of)
        assert done.returncode == 10 and "own.yaml:2 (forms.room.form)" in done.stdout + done.stderr
        assert "stays until 'vitalake lake rewrite --republish DATASET'" in done.stdout + done.stderr
    assert "no text: the form 'room' is" in " ".join(
        _run(ward, "policy", "check", "--dataset", "answer").stdout.split()
    )
    again = _run(ward, "lake", "rewrite", "--republish", "answer")
    assert again.returncode == 0, again.stderr
    assert msgspec.json.decode(_run(ward, "sql", "SELECT place FROM answer", "--json").stdout)["rows"] == [[None]]
    erased = _run(ward, "patient", "erase", PEOPLE[0], "--reason", "request 17", "--yes")
    assert erased.returncode == 0, erased.stderr
