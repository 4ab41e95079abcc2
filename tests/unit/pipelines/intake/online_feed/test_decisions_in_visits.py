"""Decisions made in visits, and beside them: with which stay they end."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.online_store.facts import Placement
from tests.fhir import message
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    decide,
    iso_minutes_ago,
    kinds_decided,
    observation_steps,
    open_store,
    run_admissions,
    run_observations,
    run_records,
    stay_resource,
    visit_message,
)
from vitalake import clock


class Hours:
    """Clocks of a ward that can be set: hours since it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set them to the first hour."""
        self.begin_us, self.now = clock.now_us() - 400 * 3_600_000_000, 0.1
        monkeypatch.setattr(clock, "now_us", lambda: self.begin_us + int(self.now * 3.6e9))
        monkeypatch.setattr(clock, "now", lambda: datetime.fromtimestamp(clock.now_us() / 1e6, UTC))

    def at(self, hour: float) -> str:
        """Return an hour as FHIR writes it."""
        return datetime.fromtimestamp(self.begin_us / 1e6 + hour * 3600, UTC).isoformat(timespec="seconds")

    def encounter(self, name: str, since: float, until: float | None = None) -> dict[str, Any]:
        """Return an Encounter that goes on, or its version that has ended."""
        end = {} if until is None else {"end": self.at(until)}
        said = {"status": "finished" if end else "in-progress", "meta": {"versionId": str(len(end) + 1)}}
        return stay_resource() | said | {"id": name, "period": {"start": self.at(since)} | end}


@pytest.mark.parametrize("by_messages", [False, True])
@pytest.mark.parametrize("hours", [6, 90])
def test_what_was_decided_in_a_visit_within_a_stay_ends_with_the_stay(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, by_messages: bool, hours: int
) -> None:
    """When the ended stay was deleted, its scale 2 came back in the next stay."""
    clocks = Hours(monkeypatch)
    clocks.now = 4.0
    told: list[bytes | None] = []

    def stay(number: int, since: float, until: float | None = None) -> None:
        if by_messages:
            message = visit_message("A01" if until is None else "A03", "MED^1^A", clocks.now - (until or since))
            told.append(message.replace(b"V-1", b"V-%d" % number))
            run_admissions(home, told)
        else:
            run_records(home, "encounter", clocks.encounter(f"in-{number}", since, until))

    stay(1, 0)
    series = clocks.encounter("series", 2) | {"class": {"code": "AMB"}}
    token = run_records(home, "encounter", series).rows["patient_id"][0].as_py()
    found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    decide(home, token, found.encounter)
    assert kinds_decided(home, token) == ["pregnancy"]
    clocks.now = 18
    stay(1, 0, 18)
    assert kinds_decided(home, token) == [], "the series goes on, and is another stay"
    for clocks.now in range(18, 19 + hours, 6):
        open_store(home).prune()
    stay(2, clocks.now)
    assert kinds_decided(home, token) == []


def test_what_was_decided_in_a_visit_within_a_stay_ends_with_it_though_the_visit_ended_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The visit's own end kept its decision when the stay was deleted: the decision applied to the next stay."""
    clocks = Hours(monkeypatch)
    clocks.now = 4
    visit = {"class": {"code": "AMB"}}
    run_records(home, "encounter", clocks.encounter("in-1", 0))
    token = run_records(home, "encounter", clocks.encounter("series", 2) | visit).rows["patient_id"][0].as_py()
    found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    decide(home, token, found.encounter)
    assert kinds_decided(home, token) == ["pregnancy"]
    clocks.now = 18
    run_records(home, "encounter", clocks.encounter("in-1", 0, 18))
    for clocks.now in (30, 50):
        open_store(home).prune()
    clocks.now = 59
    run_records(home, "encounter", clocks.encounter("in-2", 59))
    clocks.now = 60
    run_records(home, "encounter", clocks.encounter("series", 2, 60) | visit)
    for clocks.now in (61, 72, 73, 80, 120):
        open_store(home).prune()
        assert kinds_decided(home, token) == []


def test_what_was_decided_in_a_stay_without_a_number_is_kept_while_its_end_was_told_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A discharge of long ago that is sent now can be for the wrong patient, and be cancelled."""
    clocks = Hours(monkeypatch)
    clocks.now = 4
    visit = clocks.encounter("series", 2) | {"class": {"code": "AMB"}}
    token = run_records(home, "encounter", visit).rows["patient_id"][0].as_py()
    hour = 3_600_000_000

    def lies(key: str, since: float, status: str, *, discharged: bool, version: int = 1) -> None:
        since_us = clocks.begin_us + int(since * hour)
        bed = Placement("", since_us, None, "bed:MED/1/A", status, discharged, known_us=clock.now_us())
        open_store(home).put_facts([(token, key, version, bed)])

    lies("bed", 0, "active", discharged=False)
    found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    decide(home, token, found.encounter)
    clocks.now = 100
    lies("end", 18, "ended", discharged=True)
    open_store(home).prune()
    assert kinds_decided(home, token) == []
    clocks.now = 101
    lies("end", 18, "entered-in-error", discharged=True, version=2)
    assert kinds_decided(home, token) == ["pregnancy"]


def test_what_was_decided_before_a_stay_ends_with_it_though_a_visit_ended_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept for the visit's end when the stay was deleted, it applied to the next stay."""
    clocks = Hours(monkeypatch)
    clocks.now = 5
    outcome = run_observations(
        observation_steps(home),
        [message(1, effectiveDateTime=iso_minutes_ago(5), subject={"reference": "Patient/p-1"})],
    )
    token = outcome.rows["patient_id"][0].as_py()
    decide(home, token, "")
    assert kinds_decided(home, token) == ["pregnancy"]
    clocks.now = 20
    assert run_records(home, "encounter", clocks.encounter("in-1", 6, 20)).rows["patient_id"][0].as_py() == token
    clocks.now = 30
    run_records(home, "encounter", clocks.encounter("in-2", 30))
    clocks.now = 60
    run_records(home, "encounter", clocks.encounter("clinic", 58, 60) | {"class": {"code": "AMB"}})
    for clocks.now in (61, 69, 90, 110):
        open_store(home).prune()
        assert kinds_decided(home, token) == []


@pytest.mark.parametrize("begun", [0, 6])
def test_what_was_decided_before_a_stay_was_known_is_back_with_it_when_its_wrong_end_is_taken_back(
    home: Path, monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    """Another stay, which was separate because of the wrong end, was deleted meanwhile."""
    clocks = Hours(monkeypatch)
    clocks.now = 5
    outcome = run_observations(
        observation_steps(home),
        [message(1, effectiveDateTime=iso_minutes_ago(5), subject={"reference": "Patient/p-1"})],
    )
    token = outcome.rows["patient_id"][0].as_py()
    decide(home, token, "")
    clocks.now = 7
    run_records(home, "encounter", clocks.encounter("long", begun))
    clocks.now = 31
    run_records(home, "encounter", clocks.encounter("short", 20, 30))
    open_store(home).prune()
    assert kinds_decided(home, token) == ["pregnancy"]
    clocks.now = 79
    run_records(home, "encounter", clocks.encounter("long", begun, 10))
    clocks.now = 80
    open_store(home).prune()
    clocks.now = 81
    run_records(home, "encounter", clocks.encounter("long", begun) | {"meta": {"versionId": "3"}})
    assert kinds_decided(home, token) == ["pregnancy"]


@pytest.mark.parametrize("until", [2, 4])
def test_what_was_decided_in_a_bed_without_a_number_goes_with_it_beside_an_end_told_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    """It applied to the next stay, because the stay whose end was reported recently had begun before it."""
    clocks = Hours(monkeypatch)
    clocks.now = 6
    outcome = run_observations(
        observation_steps(home),
        [message(1, effectiveDateTime=iso_minutes_ago(5), subject={"reference": "Patient/p-1"})],
    )
    token = outcome.rows["patient_id"][0].as_py()

    def lies(key: str, status: str, *, discharged: bool) -> None:
        bed = Placement("", clock.now_us(), None, "bed:MED/1/A", status, discharged, known_us=clock.now_us())
        open_store(home).put_facts([(token, key, 1, bed)])

    lies("bed", "active", discharged=False)
    clocks.now = 7
    decide(home, token, "")
    assert kinds_decided(home, token) == ["pregnancy"]
    clocks.now = 10
    lies("end", "ended", discharged=True)
    clocks.now = 45
    run_records(home, "encounter", clocks.encounter("other", 1))
    clocks.now = 46
    run_records(home, "encounter", clocks.encounter("other", 1, until))
    for clocks.now in (47, 57, 59, 61, 65):
        open_store(home).prune()
    clocks.now = 70
    run_records(home, "encounter", clocks.encounter("next", 70))
    for clocks.now in (71, 95):
        open_store(home).prune()
        assert kinds_decided(home, token) == []


def test_what_was_decided_in_a_visit_within_a_stay_does_not_hold_in_an_older_series(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Hours(monkeypatch)
    visit = {"class": {"code": "AMB"}}
    run_records(home, "encounter", clocks.encounter("series", 0) | visit)
    clocks.now = 12
    clinic = clocks.encounter("clinic", 12) | visit
    token = run_records(home, "encounter", clocks.encounter("in-1", 10), clinic).rows["patient_id"][0].as_py()
    found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    decide(home, token, found.encounter)
    assert kinds_decided(home, token) == ["pregnancy"]
    clocks.now = 20
    run_records(home, "encounter", clocks.encounter("in-1", 10, 20), clocks.encounter("clinic", 12, 13) | visit)
    assert kinds_decided(home, token) == []


@pytest.mark.parametrize("former", ["IMP", "AMB"])
def test_what_was_decided_in_a_series_outlasts_another_visit_while_an_old_stay_is_forgotten(
    home: Path, monkeypatch: pytest.MonkeyPatch, former: str
) -> None:
    clocks = Hours(monkeypatch)

    def visit(name: str, since: float, until: float | None = None, kind: str = "AMB") -> dict[str, Any]:
        return clocks.encounter(name, since, until) | {"class": {"code": kind}}

    clocks.now = 4
    token = run_records(home, "encounter", visit("old", 0, 4, former)).rows["patient_id"][0].as_py()
    for clocks.now, encounter in ((10, visit("series", 10)), (56, visit("clinic", 56))):
        run_records(home, "encounter", encounter)
        if clocks.now == 10:
            found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
            assert found is not None
            decide(home, token, found.encounter)
    for clocks.now in range(58, 66):
        open_store(home).prune()
    clocks.now = 67
    run_records(home, "encounter", visit("clinic", 56, 67))
    assert kinds_decided(home, token) == ["pregnancy"]


def test_what_was_decided_in_a_visit_within_a_stay_holds_again_after_a_discharge_by_mistake(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older stay was deleted meanwhile, and the decision with it, for good."""
    clocks = Hours(monkeypatch)
    run_records(home, "encounter", clocks.encounter("in-0", 0, 0.05))
    clocks.now = 21
    clinic = clocks.encounter("clinic", 21) | {"class": {"code": "AMB"}}
    token = run_records(home, "encounter", clocks.encounter("in-1", 20), clinic).rows["patient_id"][0].as_py()
    found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    decide(home, token, found.encounter)
    clocks.now = 53.5
    run_records(home, "encounter", clocks.encounter("in-1", 20, 53.5))
    assert kinds_decided(home, token) == []
    for clocks.now in (54, 56, 58):
        open_store(home).prune()
    run_records(home, "encounter", clocks.encounter("in-1", 20) | {"meta": {"versionId": "3"}})
    assert kinds_decided(home, token) == ["pregnancy"]
