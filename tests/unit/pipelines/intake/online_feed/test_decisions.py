"""Decisions of clinicians hold for the hospital stay in which they were made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fhir import message
from tests.hl7 import adt
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    decide,
    hl7_hours_ago,
    iso_minutes_ago,
    kinds_decided,
    observation_steps,
    open_store,
    run_admissions,
    run_observations,
    run_records,
    stay_resource,
)
from vitalake import clock


def test_what_was_decided_before_the_stay_was_known_holds_for_it_and_not_for_the_next(home: Path) -> None:
    outcome = run_observations(
        observation_steps(home),
        [message(1, effectiveDateTime=iso_minutes_ago(5), subject={"reference": "Patient/p-1"})],
    )
    token = outcome.rows["patient_id"][0].as_py()
    decide(home, token, "", minutes_ago=100)
    assert kinds_decided(home, token) == ["pregnancy"]
    run_records(home, "encounter", stay_resource())
    assert kinds_decided(home, token) == ["pregnancy"], "it was the stay in which it was decided"
    ended = stay_resource() | {
        "period": {"start": iso_minutes_ago(120), "end": iso_minutes_ago(60)},
        "status": "finished",
        "meta": {"versionId": "2"},
    }
    run_records(home, "encounter", ended)
    assert kinds_decided(home, token) == ["pregnancy"]
    run_records(home, "encounter", stay_resource() | {"id": "e-2", "period": {"start": iso_minutes_ago(30)}})
    assert kinds_decided(home, token) == []


@pytest.mark.parametrize("ends", [20, 35])
def test_what_is_known_of_a_department_holds_while_the_hospital_stay_lasts(home: Path, ends: int) -> None:
    """A transfer within the hospital ended scale 2 and a pregnancy silently: 5 medium became 2 low."""
    facility = stay_resource() | {"id": "facility"}
    first = stay_resource() | {"id": "d-1", "period": {"start": iso_minutes_ago(110)}}
    run_records(home, "encounter", facility, first)
    token = run_records(home, "encounter", first).rows["patient_id"][0].as_py()
    diagnosis = {
        "resourceType": "Condition", "id": "c-1", "encounter": {"reference": "Encounter/d-1"},
        "recordedDate": iso_minutes_ago(60),
        "subject": {"reference": "Patient/p-1"},
        "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "O14.1"}]},
    }  # fmt: skip
    run_records(home, "condition", diagnosis)
    store = open_store(home)
    stay = store.facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    decide(home, token, stay.encounter, minutes_ago=30)
    left = first | {
        "status": "finished",
        "period": {"start": iso_minutes_ago(110), "end": iso_minutes_ago(ends)},
        "meta": {"versionId": "2"},
    }
    run_records(home, "encounter", left, stay_resource() | {"id": "d-2", "period": {"start": iso_minutes_ago(10)}})
    after = store.facts.stay(token, as_of_us=clock.now_us())
    assert after is not None and after.encounter != stay.encounter
    assert after.pregnant
    assert kinds_decided(home, token) == ["pregnancy"]
    run_records(
        home,
        "encounter",
        facility | {"status": "finished", "period": {"start": iso_minutes_ago(120), "end": iso_minutes_ago(31)}},
    )
    after = store.facts.stay(token, as_of_us=clock.now_us())
    assert after is not None
    assert (after.pregnant, kinds_decided(home, token)) == (ends == 20, ["pregnancy"] if ends == 20 else [])


@pytest.mark.parametrize(("minutes", "kept"), [(0, ["pregnancy"]), (14, ["pregnancy"]), (16, [])])
def test_who_is_admitted_from_the_emergency_department_keeps_what_was_decided_there(
    home: Path, minutes: int, kept: list[str]
) -> None:
    there = stay_resource() | {
        "id": "ed",
        "period": {"start": iso_minutes_ago(120), "end": iso_minutes_ago(40)},
        "status": "finished",
    }
    token = run_records(home, "encounter", there).rows["patient_id"][0].as_py()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    decide(home, token, stay.encounter, minutes_ago=60)
    run_records(home, "encounter", stay_resource() | {"period": {"start": iso_minutes_ago(40 - minutes)}})
    assert kinds_decided(home, token) == kept


@pytest.mark.parametrize(("end", "kept"), [("A03", []), ("A02", ["pregnancy"])])
def test_a_visit_without_a_number_ends_what_was_decided_in_it(home: Path, end: str, kept: list[str]) -> None:
    """No stay has a name then, and decisions made in one applied to the next."""
    pid, bed = "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A"
    other = "PV1|1|I|4W^12^B|||4W^12^A"
    messages: list[bytes | None] = [adt("A01", pid, bed, at=hl7_hours_ago(5))]
    token = run_admissions(home, messages).rows["patient_id"][0].as_py()
    decide(home, token, "", minutes_ago=240)
    messages += [
        adt(end, pid, bed if end == "A03" else other, at=hl7_hours_ago(3)),
        adt("A01", pid, bed, at=hl7_hours_ago(2)),
    ]
    run_admissions(home, messages)
    assert kinds_decided(home, token) == kept


@pytest.mark.parametrize(
    ("left", "decided", "kept"), [(None, 0, ["pregnancy"]), (3.0, 240, []), (3.0, 60, ["pregnancy"])]
)
def test_what_was_decided_for_a_visit_holds_for_the_encounter_that_is_the_same_stay(
    home: Path, left: float | None, decided: int, kept: list[str]
) -> None:
    """Also if the visit had ended before without a message: the decision belongs to the stay of its time."""
    pid, bed = "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A||||||||||||||||V-1"
    messages: list[bytes | None] = [adt("A01", pid, bed, at=hl7_hours_ago(5))]
    token = run_admissions(home, messages).rows["patient_id"][0].as_py()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.encounter
    decide(home, token, stay.encounter, minutes_ago=decided)
    assert kinds_decided(home, token) == ["pregnancy"]
    if left is not None:
        run_admissions(home, [*messages, adt("A03", pid, bed, at=hl7_hours_ago(left))])
    run_records(home, "encounter", stay_resource())
    known = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert known is not None
    assert known.encounter != stay.encounter
    assert kinds_decided(home, token) == kept
