"""What clinicians have decided comes back for the stay it was said for, and from an audit that holds only."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from governance.audit import AuditEvent, open_audit
from pipelines.online_store.facts import Admission, Decision
from pipelines.republish.decisions import Ends, restore_decisions
from pipelines.republish.online_store import rebuild_online_store
from tests.attribution import Ward as Bedside
from tests.attribution import hl7_time
from tests.hl7 import adt
from tests.services.serving import HOUR, WardUnderTest
from vitalake import clock


@pytest.fixture
def ward(home: Path) -> WardUnderTest:
    return WardUnderTest(home)


def _decide(ward: WardUnderTest, hours_ago: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at_us = clock.now_us() - hours_ago * HOUR
    detail = {"kind": "spo2-scale-2", "holds": "yes", "reason": "blood-gas-now"}
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now_us", lambda: at_us)
        audit = open_audit(ward.settings, ward.keys, writer="serving")
        audit.record(AuditEvent("decision.write", "somebody", "clinician", (ward.token("p-1"),), detail))


def _ends(**rows: list[tuple[object, int, int | None, int | None, str]]) -> Ends:
    """Return what rows of datasets tell, each of a name, version, hours ago of begin and end, and a status."""
    found, now = Ends(), clock.now_us()
    for dataset, several in rows.items():
        columns: dict[str, list[object]] = {"patient_id": ["p-1"] * len(several)}
        is_stay = dataset == "encounter"
        columns["encounter_id" if is_stay else "association_id"] = [one[0] for one in several]
        columns["version"] = [one[1] for one in several]
        times = [[None if ago is None else now - ago * HOUR for ago in one[2:4]] for one in several]
        columns["admitted_at" if is_stay else "valid_from"] = [begin for begin, _ in times]
        columns |= {"discharged_at": [end for _, end in times]} if is_stay else {"status": [one[4] for one in several]}
        found.note(dataset, pa.table(columns))
    return found


def _restored(ward: WardUnderTest, *had: Decision, ends: Ends | None = None) -> tuple[dict[str, str], bool]:
    patient = ward.token("p-1")
    told = [(patient, one) for one in had]
    whole = restore_decisions(ward.settings, ward.keys, ward.store, ["p-1"], told, ends or Ends())
    found = ward.store.facts.stay(patient, as_of_us=clock.now_us())
    decisions = ward.store.facts.decisions(patient, encounter=found.encounter if found else "")
    return {kind: one.encounter for kind, one in decisions.items()}, whole


def _admit(ward: WardUnderTest, encounter: str, hours_ago: int, until: int | None = None) -> None:
    now = clock.now_us()
    end = None if until is None else now - until * HOUR
    ward.store.put_facts([(ward.token("p-1"), encounter, 1, Admission(now - hours_ago * HOUR, end, 70))])


@pytest.mark.parametrize(("decided", "expected"), [(245 * 24, {}), (100, {}), (20, {"spo2-scale-2": "F"})])
def test_what_was_decided_in_a_stay_that_is_over_does_not_hold_in_the_next(
    ward: WardUnderTest, decided: int, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filling leaves old stays out: scale 2 of last winter's stay held in today's, and 88 % scored nothing."""
    _admit(ward, "E", 250 * 24, until=90)  # left out: it ended before what the store keeps
    _admit(ward, "F", 24)
    _decide(ward, decided, monkeypatch)
    ends = _ends(encounter=[("E", 1, 250 * 24, None, ""), ("E", 2, 250 * 24, 90, ""), ("F", 1, 24, None, "")])
    assert _restored(ward, ends=ends) == (expected, True)


def test_what_was_decided_long_ago_in_a_visit_that_goes_on_does_not_come_back(
    ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stay that it was decided in, within the visit, is forgotten: scale 2 held in the next one."""
    begun_us = clock.now_us() - 200 * HOUR
    series = Admission(begun_us, None, 70, outpatient=True)
    ward.store.put_facts([(ward.token("p-1"), "series", 1, series)])
    _admit(ward, "F", 24)
    _decide(ward, 100, monkeypatch)
    assert _restored(ward) == ({}, False), "and it is said that decisions may be missing"


_OPEN = {"encounter": [("F", 1, 72, None, "")]}


@pytest.mark.parametrize(
    ("decided", "rows", "expected"),
    [
        (73, _OPEN, ({"spo2-scale-2": ""}, True)),
        (73, {"device_association": [(b"a", 1, 72, None, "active")]}, ({"spo2-scale-2": ""}, True)),
        (73, {"encounter": [("E", 1, 80, None, ""), ("E", 2, 80, 73, ""), *_OPEN["encounter"]]}, ({}, True)),
        (73, {"encounter": [("E", 1, 80, 73, ""), ("E", 2, 80, None, "")]}, ({"spo2-scale-2": ""}, True)),
        (73, {"encounter": [("E", 1, 70, 73, "")]}, ({"spo2-scale-2": ""}, True)),  # no end: before its beginning
        (73, {"device_association": [(b"a", 1, 73, None, "ended")]}, ({}, False)),  # a bed was left, maybe a stay
        (73, {"device_association": [(b"a", 1, 73, None, "ended"), (b"a", 2, 73, None, "entered-in-error")]},
         ({"spo2-scale-2": ""}, True)),
        (200, _OPEN, ({}, False)),  # five days before: nobody can say
    ],
)  # fmt: skip
def test_what_was_decided_before_a_stay_began_is_of_it_unless_another_ended_between(
    ward: WardUnderTest, decided: int, rows: Any, expected: tuple[dict[str, str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pregnancy that was said in the emergency department was gone after a filling, and nothing said so."""
    _admit(ward, "F", 72)
    _decide(ward, decided, monkeypatch)
    assert _restored(ward, ends=_ends(**rows)) == expected


def test_a_filling_looks_for_ends_in_what_the_lake_has_of_stays_and_beds(
    ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bedside = Bedside(ward.home, begin=clock.now() - timedelta(hours=73))
    told = json.dumps(
        {
            "resourceType": "Encounter", "id": "E", "status": "in-progress", "subject": {"reference": "Patient/p-1"},
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
            "period": {"start": bedside.at(3_600).isoformat()},
        }
    ).encode()  # fmt: skip
    bedside.send("encounter", [(bedside.at(3_700), [told])])
    bedside.tell(adt("A01", "PID|1||p-2^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(bedside.at(0))))
    _decide(ward, 73, monkeypatch)
    rebuild_online_store(ward.settings)
    found = ward.store.facts.stay(ward.token("p-1"), as_of_us=clock.now_us())
    assert found is not None and found.discharged_us is None
    assert {*ward.store.facts.decisions(ward.token("p-1"), encounter=found.encounter)} == {"spo2-scale-2"}
    assert not ward.store.completeness.lacks_decisions()


def test_a_long_stay_keeps_what_was_decided_in_it(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    _admit(ward, "F", 40 * 24)
    _decide(ward, 30 * 24, monkeypatch)
    assert _restored(ward) == ({"spo2-scale-2": "F"}, True)


def test_where_no_stay_is_known_an_old_decision_may_be_missing(
    ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.measure(ward.token("p-1"), {"8867-4": 70})
    _decide(ward, 200, monkeypatch)
    assert _restored(ward) == ({}, False)
    _decide(ward, 2, monkeypatch)
    assert _restored(ward) == ({"spo2-scale-2": ""}, False)


def test_what_the_store_had_keeps_its_stay(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    _decide(ward, 30, monkeypatch)
    _admit(ward, "E", 60, until=20)
    _admit(ward, "F", 19)
    had = Decision("spo2-scale-2", True, "E", "somebody", clock.now_us() - 30 * HOUR + HOUR // 60, "blood-gas-now")
    assert _restored(ward, had) == ({}, True), "lapsed with its stay"
    assert [one.encounter for _, one in ward.store.facts.decided()] == ["E"]


def test_nothing_comes_from_an_audit_that_does_not_hold(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    _admit(ward, "F", 24)
    _decide(ward, 5, monkeypatch)
    _decide(ward, 4, monkeypatch)
    chain = ward.settings.path(ward.settings.audit) / "serving.jsonl"
    lines = chain.read_bytes().splitlines(keepends=True)
    chain.write_bytes(lines[0])
    assert _restored(ward) == ({}, False)
