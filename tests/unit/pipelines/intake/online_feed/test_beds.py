"""Beds, as admissions, transfers and discharges report them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.formats.shared.reasons import Reason
from tests.hl7 import PID, adt
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    hl7_hours_ago,
    iso_minutes_ago,
    lies_in,
    open_store,
    run_admissions,
    run_records,
    stay_resource,
    visit_message,
)
from vitalake import clock


def test_an_admission_puts_a_patient_in_a_bed_and_a_discharge_takes_them_away(home: Path) -> None:
    """The bed was never stored: a board showed the ward only, and no patient before the first value."""
    told = [(clock.now() - timedelta(hours=hours)).strftime("%Y%m%d%H%M%S+0000") for hours in (5, 2, 1)]
    steps: list[list[bytes | None]] = [
        [adt("A01", PID, "PV1|1|I|4W^12^A", at=told[0])],
        [adt("A02", PID, "PV1|1|I|ICU^1^2|||4W^12^A", at=told[1])],
        [adt("A03", PID, "PV1|1|I|ICU^1^2", at=told[2])],
    ]
    seen = []
    for number in range(1, 4):
        messages = [message for step in steps[:number] for message in step]
        outcome = run_admissions(home, messages)
        patient = outcome.rows["patient_id"][0].as_py()
        stay = open_store(home).facts.stay(patient, as_of_us=clock.now_us())
        assert stay is not None
        seen.append((stay.unit, stay.bed, stay.discharged_us is None))
    assert seen == [("4W", "12 A", True), ("ICU", "1 2", True), ("ICU", "1 2", False)]


@pytest.mark.parametrize("minutes", [0, 5])
def test_who_was_not_discharged_after_all_is_there(home: Path, minutes: int) -> None:
    """An A13 often gives no time but its own, which can be that of the discharge."""
    at = [clock.now() - timedelta(hours=2), clock.now() - timedelta(hours=1)]
    at.append(at[1] + timedelta(minutes=minutes))
    told = [moment.strftime("%Y%m%d%H%M%S+0000") for moment in at]
    place = "PV1|1|I|ICU^1^2"
    messages: list[bytes | None] = [adt(f"A{n:02}", PID, place, at=told[i]) for i, n in enumerate((1, 3, 13))]
    outcome = run_admissions(home, messages)
    stay = open_store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.bed, stay.discharged_us) == ("1 2", None)


@pytest.mark.parametrize("place", ["PV1|1|I|ICU^1^2", "PV1|1|I|OR^^|||ICU^1^2"])
def test_only_a_discharge_ends_the_stay_of_who_left_a_bed(home: Path, place: str) -> None:
    """A transfer to a place without a bed is no discharge: the patient must stay on the board."""
    at = (clock.now() - timedelta(hours=2)).strftime("%Y%m%d%H%M%S+0000")
    now = (clock.now() - timedelta(hours=1)).strftime("%Y%m%d%H%M%S+0000")
    event = "A02" if "OR" in place else "A03"
    outcome = run_admissions(home, [adt("A01", PID, "PV1|1|I|ICU^1^2", at=at), adt(event, PID, place, at=now)])
    stay = open_store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert (stay is not None and stay.discharged_us is not None) == (event == "A03")


@pytest.mark.parametrize(
    ("place", "back", "timed"),
    [
        ("4W", "4W", ""), ("LOUNGE", "LOUNGE", ""), ("LOUNGE", "4W^12^A", ""), ("4W^12^A", "LOUNGE", ""),
        ("LOUNGE", "4W^12^A", "PV1-45"), ("4W^12", "4W^12^A", "EVN-6"), ("4W^12^A", "LOUNGE", "PV1-45"),
    ],
)  # fmt: skip
def test_a_discharge_from_any_place_ends_the_stay_of_its_number_until_it_is_taken_back(
    home: Path, place: str, back: str, timed: str
) -> None:
    """PV1-3 of an A03 is often only the ward or lounge, that of its A13 the bed: a patient in bed left the board."""
    at = [(clock.now() - timedelta(hours=hours)).strftime("%Y%m%d%H%M%S+0000") for hours in (3, 2, 1)]
    ends = [f"PV1|1|I|{told}||||||||||||||||V-1{'|' * 26}" for told in ("4W^12^A", place, back)]
    ends[2] += at[1] if timed == "PV1-45" else ""
    messages: list[bytes | None] = [adt(f"A{n:02}", PID, ends[i], at=at[i]) for i, n in enumerate((1, 3, 13))]
    if timed == "EVN-6":
        last = messages[2] or b""
        messages[2] = last.replace(f"EVN||{at[2]}".encode(), f"EVN||{at[2]}||||{at[1]}".encode())
    seen = []
    for count in (1, 2, 3):
        patient = run_admissions(home, messages[:count]).rows["patient_id"][0].as_py()
        stay = open_store(home).facts.stay(patient, as_of_us=clock.now_us())
        assert stay is not None
        seen.append((stay.discharged_us is None, stay.bed))
    assert seen == [(True, "12 A"), (False, "12 A"), (True, "12 A")]


def test_the_bed_of_tomorrow_does_not_hide_that_of_today(home: Path) -> None:
    system = "http://terminology.hl7.org/CodeSystem/location-physical-type"

    def bed(name: str, **period: str) -> dict[str, Any]:
        kind = {"coding": [{"system": system, "code": "bd"}]}
        return {"location": {"display": name}, "status": "active", "physicalType": kind, "period": period}

    places = [
        bed("today", start=iso_minutes_ago(60), end=iso_minutes_ago(-600)),
        bed("tomorrow", start=iso_minutes_ago(-1200)),
        bed("before", end=iso_minutes_ago(60)),
    ]
    token = run_records(home, "encounter", stay_resource() | {"location": places}).rows["patient_id"][0].as_py()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.bed == "today"


def test_an_admission_to_the_wrong_bed_is_corrected(home: Path) -> None:
    said = hl7_hours_ago(2)
    admitted, corrected = visit_message("A01", "4W^5^B", 2, said=said), visit_message("A08", "4W^5^A", 1, said=said)
    token = run_admissions(home, [admitted, corrected]).rows["patient_id"][0].as_py()
    assert lies_in(home, token) == ("4W", "5 A", True)


@pytest.mark.parametrize("number", ["V-1", ""])
def test_who_is_admitted_to_a_ward_without_a_bed_is_there(home: Path, number: str) -> None:
    """The whole message was dropped: the patient was not on the board, and with values had neither place nor age."""
    of = [
        visit_message("A01", "MED", 5), visit_message("A02", "MED^1^A", 4, prior="MED"),
        visit_message("A02", "OR^^", 3, prior="MED^1^A"), visit_message("A03", "OR^^", 1),
    ]  # fmt: skip
    messages: list[bytes | None] = [one.replace(b"V-1", number.encode()) for one in of]
    seen = []
    for count in range(1, 5):
        token = run_admissions(home, messages[:count]).rows["patient_id"][0].as_py()
        seen.append(lies_in(home, token))
    assert seen == [("MED", "", True), ("MED", "1 A", True), ("OR", "", True), ("OR", "", False)]


@pytest.mark.parametrize("prior", ["", '""'])
def test_a_transfer_that_does_not_say_from_where_is_refused_and_shows_the_new_place(home: Path, prior: str) -> None:
    """The old bed stayed without a mark; accepted, the message would have left its monitor with the patient."""
    messages: list[bytes | None] = [visit_message("A01", "MED^1^A", 5), visit_message("A02", "ICU^1^2", 3, prior=prior)]
    outcome = run_admissions(home, messages)
    assert [(reject.message, reject.reason) for reject in outcome.rejects] == [(1, Reason.WRONG_SHAPE)]
    assert outcome.rows.num_rows == 1, "the admission, and of the transfer nothing"
    token = outcome.rows["patient_id"][0].as_py()
    assert lies_in(home, token) == ("ICU", "1 2", True)
    run_admissions(home, [*messages, visit_message("A03", "ICU^1^2", 1)])
    assert lies_in(home, token)[2] is False


def test_who_waits_in_the_emergency_department_without_a_bed_is_there(home: Path) -> None:
    told = visit_message("A04", "ER^^", 2).replace(b"PV1|1|I", b"PV1|1|E")
    token = run_admissions(home, [told]).rows["patient_id"][0].as_py()
    assert lies_in(home, token) == ("ER", "", True)
