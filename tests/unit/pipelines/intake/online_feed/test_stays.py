"""Stays as their own records describe them, with their beds; visits are no stays."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.pipelines.intake.online_feed.feed_samples import (
    decide,
    hl7_hours_ago,
    iso_minutes_ago,
    kinds_decided,
    lies_in,
    open_store,
    place_of,
    run_admissions,
    run_records,
    stay_resource,
    visit_message,
)
from vitalake import clock


def test_a_stay_within_a_stay_ends_nothing_but_itself(home: Path) -> None:
    """A sick inpatient left the board when one of their procedures ended."""
    open_, told = stay_resource(), clock.now_us()
    procedure = stay_resource() | {
        "id": "proc",
        "period": {"start": iso_minutes_ago(60), "end": iso_minutes_ago(30)},
        "status": "finished",
    }
    without_end = stay_resource() | {"id": "proc-2", "period": {"start": iso_minutes_ago(50)}, "status": "finished"}
    for resource in (open_, procedure, without_end):
        token = run_records(home, "encounter", resource).rows["patient_id"][0].as_py()
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.discharged_us is None
    for last in ({"status": "cancelled"}, {"status": "entered-in-error"}):
        run_records(home, "encounter", procedure | {"id": "proc-3"} | last)
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.discharged_us is None
    run_records(home, "encounter", open_ | {"status": "finished", "meta": {"versionId": "2"}})
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.discharged_us is not None, "finished without an end: it ended when that became known"
    assert stay.discharged_us >= told - 1_000


def test_a_stay_told_by_fhir_has_a_bed_and_a_transfer_another(home: Path) -> None:
    """The board of a hospital that sends only FHIR showed no places."""

    def at(kind: str, name: dict[str, Any], **more: Any) -> dict[str, Any]:
        system = "http://terminology.hl7.org/CodeSystem/location-physical-type"
        return {"location": name, "physicalType": {"coding": [{"system": system, "code": kind}]}, **more}

    ward, hospital = at("wa", {"display": "4 West"}), {"location": {"display": "General Hospital"}}
    first = at("bd", {"identifier": {"value": "12/A"}}, status="active")
    left = at(
        "bd",
        {"display": "12/A"},
        status="completed",
        period={"start": iso_minutes_ago(100), "end": iso_minutes_ago(30)},
    )
    now = at("bd", {"reference": "Location/bed-7"}, period={"start": iso_minutes_ago(30)})
    found = []
    for number, places in enumerate(([hospital], [hospital, ward, first], [ward, left, now], ["nonsense"], [left]), 1):
        resource = stay_resource() | {"location": places, "meta": {"versionId": str(number)}}
        token = run_records(home, "encounter", resource).rows["patient_id"][0].as_py()
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        found.append((stay.unit, stay.bed))
    assert found == [("", ""), ("4 West", "12/A"), ("4 West", "bed-7"), ("4 West", "bed-7"), ("", "")], "left all"


@pytest.mark.parametrize(
    ("then", "newest_first", "expected"),
    [
        ([], False, "12/A"), ([place_of("ro", "OR 3")], False, ""), ([place_of("", "OR 3")], False, ""),
        ([place_of("bd", "7", "planned")], False, ""), ([place_of("wa", "4 West", "completed")], False, ""),
        ([place_of("bd", "7")], False, "7"), ([place_of("wa", "5 East")], False, ""),
        ([place_of("ro", "OR 3")], True, ""),
    ],
)  # fmt: skip
def test_who_has_left_a_bed_does_not_keep_it_wherever_they_are_now(
    home: Path, then: list[dict[str, Any]], newest_first: bool, expected: str
) -> None:
    """Patients in the operating room kept their bed on the ward, and the next patient there was the second in it."""
    told = [[place_of("bd", "12/A")], [place_of("bd", "12/A", "completed" if then else "active"), *then]]
    versions = [{"location": places, "meta": {"versionId": str(i)}} for i, places in enumerate(told, 1)]
    for version in versions[::-1] if newest_first else versions:
        resource = stay_resource() | version | {"period": {"start": iso_minutes_ago(6_000)}}
        token = run_records(home, "encounter", resource).rows["patient_id"][0].as_py()
        with closing(open_store(home)) as store:
            store.prune()
            stay = store.facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.bed, stay.discharged_us) == (expected, None)


@pytest.mark.parametrize("from_minutes", [None, -30.0])
def test_a_stay_that_is_over_has_no_bed_whenever_it_is_told(home: Path, from_minutes: float | None) -> None:
    """Back-filled stays of last year put their patients on the board, and their beds never ended."""
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/location-physical-type", "code": "bd"}]}
    place: dict[str, Any] = {"location": {"display": "12/A"}, "physicalType": kind}
    ago = 60 * 24 * 200.0
    if from_minutes is not None:
        place["period"] = {"start": iso_minutes_ago(ago + from_minutes)}
    over = {
        "status": "finished",
        "period": {"start": iso_minutes_ago(ago + 600), "end": iso_minutes_ago(ago)},
        "location": [place],
    }
    token = run_records(home, "encounter", stay_resource() | over).rows["patient_id"][0].as_py()
    assert open_store(home).facts.stay(token, as_of_us=clock.now_us()) is None
    assert open_store(home).all_patients() == []
    recent = over | {"period": {"start": iso_minutes_ago(600), "end": iso_minutes_ago(60)}, "meta": {"versionId": "2"}}
    place["period"] = {"start": iso_minutes_ago(30)}
    run_records(home, "encounter", stay_resource() | recent | {"location": [place]})
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.discharged_us is not None, "told as begun after the end of the stay"


def test_a_status_that_says_nothing_ends_no_stay_before_its_end(home: Path) -> None:
    """An end ahead of our clock was clamped to it, although it is an end only if the stay is over."""
    stay = stay_resource() | {
        "status": "unknown",
        "period": {"start": iso_minutes_ago(120), "end": iso_minutes_ago(-60)},
    }
    token = run_records(home, "encounter", stay).rows["patient_id"][0].as_py()
    assert [lies_in(home, token, in_minutes=minutes)[2] for minutes in (0, 61)] == [True, False]


@pytest.mark.parametrize(
    ("event", "kind"),
    [("A04", "O"), ("A04", "R"), ("A08", "O"), ("A01", "O"), ("A02", "O"), ("A04", "B"), ("A08", "U")],
)
def test_a_visit_to_a_clinic_is_no_open_stay(home: Path, event: str, kind: str) -> None:
    """No message gives its end: it was open for ever, and decisions made in one stay applied to all later ones."""
    stays = [
        visit_message("A01", "MED^1^A", 50),
        visit_message("A03", "MED^1^A", 45),
        visit_message("A01", "MED^1^B", 2).replace(b"V-1", b"V-2"),
    ]
    visit = visit_message(event, "CARD^^", 52, said=hl7_hours_ago(52), prior="RAD^^" if event == "A02" else "")
    visit = visit.replace(b"V-1", b"O-1").replace(b"PV1|1|I", f"PV1|1|{kind}".encode())
    assert run_admissions(home, [visit]).rows.num_rows == 0
    token = run_admissions(home, [visit, *stays[:2]]).rows["patient_id"][0].as_py()
    assert lies_in(home, token)[2] is False
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    decide(home, token, stay.encounter, minutes_ago=48 * 60)
    run_admissions(home, [visit, *stays])
    assert lies_in(home, token) == ("MED", "1 B", True)
    assert kinds_decided(home, token) == []


@pytest.mark.parametrize(("kind", "kept"), [("AMB", []), ("HH", []), ("IMP", ["pregnancy"])])
def test_a_series_of_visits_joins_no_stays(home: Path, kind: str, kept: list[str]) -> None:
    """Dialysis or care at home goes on for months: decisions made in one stay applied to the next."""
    series = stay_resource() | {
        "id": "series",
        "class": {"code": kind},
        "period": {"start": iso_minutes_ago(300 * 24 * 60)},
    }
    first = stay_resource() | {"id": "in-1", "period": {"start": iso_minutes_ago(50 * 60)}}
    token = run_records(home, "encounter", series, first).rows["patient_id"][0].as_py()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    decide(home, token, stay.encounter, minutes_ago=40 * 60)
    assert kinds_decided(home, token) == ["pregnancy"]
    over = {
        "status": "finished",
        "meta": {"versionId": "2"},
        "period": {"start": iso_minutes_ago(50 * 60), "end": iso_minutes_ago(30 * 60)},
    }
    session = stay_resource() | {
        "id": "session",
        "class": {"code": "AMB"},
        "period": {"start": iso_minutes_ago(31 * 60)},
    }
    run_records(home, "encounter", session)
    assert kinds_decided(home, token) == ["pregnancy"], "a session within the stay is part of it"
    run_records(
        home, "encounter", first | over, stay_resource() | {"id": "in-2", "period": {"start": iso_minutes_ago(120)}}
    )
    after = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert after is not None and after.encounter != stay.encounter
    assert kinds_decided(home, token) == kept
