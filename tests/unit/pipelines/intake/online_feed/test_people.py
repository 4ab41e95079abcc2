"""What records, admissions and results say of patients: age, sex and death."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from models.serving.rows import notes
from models.serving.ward import situation_of
from pipelines.formats.shared.records import EXTRA_COLUMNS
from pipelines.online_store.facts import DELETED, Person
from pipelines.republish.online_store import rebuild_online_store
from tests.attribution import Ward as Bedside
from tests.fhir import message
from tests.hl7 import MSH, adt, oru
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    chart_of,
    hl7_hours_ago,
    iso_minutes_ago,
    observation_steps,
    open_store,
    result_message,
    run_admissions,
    run_observations,
    run_records,
    stay_resource,
)
from vitalake import clock
from vitalake.settings import load_settings


def _person(born: str | None) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p-1", "gender": "female"} | ({"birthDate": born} if born else {})


@pytest.mark.parametrize("patient_first", [True, False])
@pytest.mark.parametrize(("back", "form", "expected"), [(9, "%Y-%m-%d", 9), (9, "%Y-%m", 8), (16, "%Y", 15)])
def test_a_child_is_known_as_one_in_any_order_and_by_part_of_the_birth_date(
    home: Path, patient_first: bool, back: int, form: str, expected: int
) -> None:
    """A child whose stay came by FHIR had no age, and was scored as an adult."""
    today = clock.now() - timedelta(minutes=120)  # when the stay began, maybe in the month before
    born = today.replace(year=today.year - back, day=1).strftime(form)
    expected = back if form == "%Y-%m-%d" else expected
    steps = [("patient", _person(born)), ("encounter", stay_resource())]
    for dataset, resource in steps if patient_first else reversed(steps):
        outcome = run_records(home, dataset, resource)
        written = [outcome.rows, *outcome.extra.values()]
        assert not {name for rows in written for name in rows.schema.names} & set(EXTRA_COLUMNS), "not for the lake"
    token = outcome.rows["patient_id"][0].as_py()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == (expected, "female")
    assert situation_of({}, age_years=stay.age_years, pregnant=False).withheld == "child"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"deceasedDateTime": "2026-01-02T03:04:05+01:00"}, "2026-01-02T02:04:05+00:00"),
        ({"deceasedDateTime": "2026-01-02"}, "yes"),
        ({"deceasedBoolean": True}, "yes"),
        ({"deceasedBoolean": False}, ""),
        ({}, ""),
    ],
)
def test_a_death_that_a_record_tells_is_known_on_the_ward(home: Path, said: dict[str, Any], expected: str) -> None:
    run_records(home, "encounter", stay_resource())
    token = run_records(home, "patient", _person("1950-01-01") | said).rows["patient_id"][0].as_py()
    assert open_store(home).facts.died(token) == expected
    run_records(home, "patient", _person("1950-01-01") | {"meta": {"versionId": "2"}, "deceasedBoolean": False})
    assert open_store(home).facts.died(token) == "", "taken back"


@pytest.mark.parametrize("key", ["told", "told-by-results"])
def test_who_always_says_that_they_live_hides_no_death_that_another_tells(home: Path, key: str) -> None:
    """Many systems always write deceasedBoolean: false, or N in PID-30; versions of two cannot be compared."""
    run_records(home, "encounter", stay_resource())
    record = _person("1950-01-01") | {"deceasedBoolean": False}
    token = run_records(home, "patient", record).rows["patient_id"][0].as_py()
    open_store(home).put_facts([(token, key, clock.now_us(), Person("unknown", died="yes"))])
    assert open_store(home).facts.died(token) == "yes"
    open_store(home).put_facts([(token, key, clock.now_us(), Person("unknown", died=DELETED))])
    assert open_store(home).facts.died(token) == "", "taken back by who has told it"
    open_store(home).put_facts([(token, "~merged", 1, Person("unknown", died="yes"))])
    assert open_store(home).facts.died(token) == "", "of a number given up it was told, and they live"
    run_records(home, "patient", record | {"deceasedBoolean": True, "meta": {"versionId": "2"}})
    assert open_store(home).facts.died(token) == "yes"


def test_who_was_told_of_long_before_the_stay_is_found_in_the_vault(home: Path) -> None:
    token = run_records(home, "patient", _person("2018")).rows["patient_id"][0].as_py()
    (home / "care.db").unlink()
    run_records(home, "encounter", stay_resource())
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.age_years is not None
    assert stay.age_years < 16


def test_an_admission_message_tells_the_age(home: Path) -> None:
    told = (clock.now() - timedelta(hours=1)).strftime("%Y%m%d%H%M%S+0000")
    born = (clock.now() - timedelta(days=400)).strftime("%Y%m%d")
    pid = f"PID|1||1234^^^HOSP^MR||Doe^Jane||{born}|F"
    outcome = run_admissions(home, [adt("A01", pid, "PV1|1|I|4W^12^A", at=told)])
    stay = open_store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == (1, "female")


def test_a_result_tells_the_age_too_and_an_admission_message_better(home: Path) -> None:
    """Without admissions a monitor's PID-7 is the only source of a birth date: a child was scored as an adult."""
    at, year = hl7_hours_ago(0.1), clock.now().year

    def result(seconds: int, born: str) -> bytes:
        pid = f"PID|1||1234^^^HOSP^MR||Doe^Jane||{born}|F"
        return oru(msh=MSH.replace("20250601100001+0200", at), pid=pid, pv1="", obr=f"OBR|1||F-{seconds}^M|V|||{at}")

    steps = observation_steps(home)
    token = (
        run_observations(steps, [result(1, f"{year - 8}0101"), result(2, "")], name="hl7-v2")
        .rows["patient_id"][0]
        .as_py()
    )
    chart = chart_of(home, token)
    assert (chart.age_years, chart.record.news2.withheld) == (8, "child")
    run_observations(steps, [result(3, f"{year - 9}0101")], first=2, name="hl7-v2")
    assert chart_of(home, token).age_years == 9, "what was said last"
    (home / "care.db").unlink()
    run_admissions(home, [adt("A01", _pid(""), "PV1|1|I|4W^12^A", at=hl7_hours_ago(0.1))])
    assert chart_of(home, token).age_years == 9, "the vault keeps what was told last"
    moved = adt("A02", _pid(f"{year - 40}0101"), "PV1|1|I|4W^9^A|||4W^12^A", at=hl7_hours_ago(0.05))
    run_admissions(home, [moved])
    run_observations(observation_steps(home), [result(4, f"{year - 9}0101")], first=3, name="hl7-v2")
    assert chart_of(home, token).age_years == 40


def test_a_child_of_whom_the_first_message_has_no_value_is_one_with_the_next(home: Path) -> None:
    """The lane took the birth date as stored, but the store had dropped it: the child was an adult for ten minutes."""
    at, year, steps = hl7_hours_ago(0.1), clock.now().year, observation_steps(home)
    old = hl7_hours_ago(80)
    run_observations(steps, [result_message(old, 1, f"{year - 8}0101")], name="hl7-v2")
    outcome = run_observations(steps, [result_message(at, 2, f"{year - 8}0101")], first=1, name="hl7-v2")
    token = outcome.rows["patient_id"][0].as_py()
    assert chart_of(home, token).record.news2.withheld == "child"
    for name in home.glob("care.db*"):
        name.unlink()
    run_observations(steps, [result_message(at, 3, f"{year - 8}0101")], first=2, name="hl7-v2")
    assert chart_of(home, token).record.news2.withheld == "child", "another store has not been told"


@pytest.mark.parametrize("record", [False, True])
def test_a_store_that_is_filled_again_knows_what_results_told_last(home: Path, record: bool) -> None:
    """The first date stayed in the vault, as if from the record, and patients with results only were not looked up."""
    year, steps = clock.now().year, observation_steps(home)
    first = run_observations(steps, [result_message(hl7_hours_ago(0.2), 1, f"{year - 40}0101")], name="hl7-v2")
    token = first.rows["patient_id"][0].as_py()
    if record:
        run_records(home, "patient", {"resourceType": "Patient", "id": "HOSP|1234"})
    run_observations(steps, [result_message(hl7_hours_ago(0.1), 2, f"{year - 8}0101")], first=1, name="hl7-v2")
    assert chart_of(home, token).age_years == 8
    steps.close()
    for name in home.glob("care.db*"):
        name.unlink()
    run_admissions(home, [adt("A01", _pid(""), "PV1|1|I|4W^12^A", at=hl7_hours_ago(0.1))])
    assert chart_of(home, token).age_years == 8


def test_a_filling_looks_up_who_was_told_of_by_results_only(home: Path) -> None:
    bedside, year = Bedside(home), clock.now().year
    bedside.stream([result_message(hl7_hours_ago(0.1), 1, f"{year - 8}0101")], name="hl7-v2")
    for name in home.glob("care.db*"):
        name.unlink()
    rebuild_online_store(bedside.settings)
    (token,) = open_store(home).patients.revisions()
    assert chart_of(home, token).record.news2.withheld == "child"


def test_who_lives_by_an_admission_message_is_not_dead_by_a_laboratory(home: Path) -> None:
    steps = observation_steps(home)
    outcome = run_observations(steps, [result_message(hl7_hours_ago(0.1), 1, "", died="Y")], name="hl7-v2")
    token = outcome.rows["patient_id"][0].as_py()
    assert open_store(home).facts.died(token) == "yes"
    pid = f"PID|1||1234^^^HOSP^MR||Doe^Jane|||F{'|' * 22}N"
    run_admissions(home, [adt("A01", pid, "PV1|1|I|4W^12^A", at=hl7_hours_ago(0.1))])
    run_observations(steps, [result_message(hl7_hours_ago(0.05), 2, "", died="Y")], first=1, name="hl7-v2")
    assert open_store(home).facts.died(token) == ""


def test_people_who_have_no_stay_do_not_stay_in_the_care_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = run_records(home, "patient", _person("2018")).rows["patient_id"][0].as_py()
    store = open_store(home)
    assert store.facts.person(token) is not None
    assert store.patients.revisions() == {}, "nobody is on the ward by it"
    later = clock.now_us() + int((load_settings(home).care.hours + 1) * 3.6e9)
    monkeypatch.setattr(clock, "now_us", lambda: later)
    store.prune()
    assert store.facts.person(token) is None


def _pid(born: str, sex: str = "F") -> str:
    return f"PID|1||1234^^^HOSP^MR||Doe^Jane||{born}|{sex}"


@pytest.mark.parametrize(("born", "sex", "known"), [("", "", (8, "female")), ('""', '""', (None, "unknown"))])
def test_an_admission_told_anew_without_the_birth_date_does_not_make_an_adult_of_a_child(
    home: Path, born: str, sex: str, known: tuple[int | None, str]
) -> None:
    """In HL7 an empty field means that nothing has changed, and two quotes mean that it is deleted."""
    day = f"{clock.now().year - 8}0101"
    bed = "PV1|1|I|4W^12^A"
    told = [
        adt("A01", _pid(day), bed, at=hl7_hours_ago(3)),
        adt("A02", _pid(born, sex), "PV1|1|I|4W^13^A|||4W^12^A", at=hl7_hours_ago(2)),
    ]
    for messages in (told[:1], told):
        token = run_admissions(home, [*messages]).rows["patient_id"][0].as_py()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == known


@pytest.mark.parametrize("day", ["0101", ""])
def test_a_store_that_is_filled_again_knows_the_child_of_whom_an_admission_message_told(home: Path, day: str) -> None:
    """The lake has no column for it: after a filling, "Under 16" became "0 low, read as an adult's"."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    year = clock.now().year - 8
    bed = "PV1|1|I|4W^12^A"
    ward.tell(
        adt("A01", _pid(f"{year}{day}"), bed, at=hl7_hours_ago(2)),
        adt("A02", _pid(""), f"{bed}|||4W^9^A", at=hl7_hours_ago(1)),
    )
    (token,) = open_store(home).patients.revisions()
    (home / "care.db").unlink()
    rebuild_online_store(ward.settings)
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.age_years == 8 - (not day)
    run_records(home, "patient", {"resourceType": "Patient", "id": "HOSP|1234", "birthDate": f"{year - 30}-01-01"})
    ward.tell(adt("A08", _pid('""'), bed, at=hl7_hours_ago(0.5)))
    (home / "care.db").unlink()
    rebuild_online_store(ward.settings)
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.age_years == 38, "the patient's own record counts first, and no admission message deletes from it"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_later_record_without_birth_date_and_sex_leaves_what_was_known(home: Path, order: tuple[int, int]) -> None:
    run_records(home, "encounter", stay_resource())
    day = f"{clock.now().year - 8}-01-01"
    bare = {"resourceType": "Patient", "id": "p-1", "meta": {"versionId": "2"}}
    versions = [_person(day) | {"meta": {"versionId": "1"}}, bare]
    for i in order:
        token = run_records(home, "patient", versions[i]).rows["patient_id"][0].as_py()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == (8, "female")
    if order == (0, 1):
        (home / "care.db").unlink()
        run_records(home, "encounter", stay_resource())
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.age_years == 8, "nor in the vault"


def test_a_child_without_a_stay_is_known_as_one(home: Path) -> None:
    run_records(home, "patient", _person(f"{clock.now().year - 8}-01-01"))
    outcome = run_observations(
        observation_steps(home),
        [message(1, effectiveDateTime=iso_minutes_ago(5), subject={"reference": "Patient/p-1"})],
    )
    token, store = outcome.rows["patient_id"][0].as_py(), open_store(home)
    assert store.facts.stay(token, as_of_us=clock.now_us()) is None
    age = store.facts.age(token, as_of_us=clock.now_us())
    assert age == 8
    assert situation_of({}, age_years=age, pregnant=False).withheld == "child"
    chart = chart_of(home, token)
    assert (chart.record.news2.withheld, chart.age_years) == ("child", 8)
    assert not [note for note in notes(chart) if "age unknown" in note.text]
