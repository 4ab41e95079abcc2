"""What clinicians have decided comes back for the stay it was said for, and from an audit that holds only."""

from __future__ import annotations

from pathlib import Path

import pytest

from governance.audit import AuditEvent, open_audit
from pipelines.rewrites.decisions import restore_decisions
from tests.services.serving import HOUR, WardUnderTest
from vitalake import clock
from vitalake.care.facts import Admission, Decision


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


def _restored(ward: WardUnderTest, *had: Decision) -> tuple[dict[str, str], bool]:
    patient = ward.token("p-1")
    whole = restore_decisions(ward.settings, ward.keys, ward.store, ["p-1"], [(patient, one) for one in had])
    found = ward.store.stay(patient, as_of_us=clock.now_us())
    decisions = ward.store.decisions(patient, encounter=found.encounter if found else "")
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
    assert _restored(ward) == (expected, True)


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
    assert [one.encounter for _, one in ward.store.decided()] == ["E"]


def test_nothing_comes_from_an_audit_that_does_not_hold(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    _admit(ward, "F", 24)
    _decide(ward, 5, monkeypatch)
    _decide(ward, 4, monkeypatch)
    chain = ward.settings.path(ward.settings.audit) / "serving.jsonl"
    lines = chain.read_bytes().splitlines(keepends=True)
    chain.write_bytes(lines[0])
    assert _restored(ward) == ({}, False)
