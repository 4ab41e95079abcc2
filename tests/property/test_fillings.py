"""Filling the online store from the lake changes nothing on the ward, whatever came and was rejected before."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.online_store.facts import Decision
from pipelines.online_store.opening import open_online_store
from pipelines.republish import online_store as rewrites
from pipelines.republish.online_store import rebuild_online_store
from tests.attribution import Ward, hl7_time
from tests.hl7 import adt
from vitalake import clock
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake

pytestmark = pytest.mark.slow

MANY = os.environ.get("VITALAKE_HYPOTHESIS") == "many"
PATIENTS = 400 if MANY else 150
SEEDS = range(25) if MANY else range(1)
JOBS = """\
jobs:
  beds: {dataset: device_association, topics: {adt: hl7-v2}}
  diagnoses: {dataset: condition, topics: {conditions: fhir}}
  stays: {dataset: encounter, topics: {encounters: fhir}}
"""
BEDS = ("MED^1^A", "SURG^2^B", "OR")


class Story:
    """What systems send of one patient in ten hours, drawn: admissions, Encounters and diagnoses, rejected ones among.

    Attributes:
        told: dataset, how many hours ago, and the message; in order.
    """

    def __init__(self, number: int, seed: int) -> None:
        """Draw it."""
        self._draw = random.Random(number * 1_000 + seed)
        self.patient, self._number = f"q-{number}", number
        self.told: list[tuple[str, float, bytes]] = []
        self._hour, self._bed, self._left = 10.0, BEDS[0], 10.0
        self._events_are_recorded = self._draw.random() < 0.5  # or EVN-2 says when it happened
        self._visit = self._draw.choice([f"V-{number}", f"e{number}-0", ""])
        self._counts_versions = self._draw.random() < 0.6
        self._encounters: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, int] = {}
        kinds = [self._admission] * self._draw.choice([0, 5, 5, 5]) + [self._encounter] * self._draw.choice([0, 3, 3])
        kinds += [self._again] * 3
        if self._admission in kinds:
            self._admit("A01", 10.0)
        for _ in range(self._draw.randint(2, 7)):
            self._draw.choice([*kinds, self._diagnosis, self._diagnosis])()

    def _tell(self, dataset: str, message: bytes) -> None:
        self.told.append((dataset, self._hour, message))
        self._hour = max(self._hour - self._draw.choice([0.002, 0.05, 0.2, 0.3, 1.0]), 0.02)

    def _admit(self, event: str, happened: float, *, end: str = "", prior: str = "") -> None:
        visit = "|" * 13 + self._visit + "|" * 25
        pv1 = f"PV1|1|I|{self._bed}|||{prior}{visit}{_time(10.0) if event == 'A01' else ''}|{end}"
        message = adt(event, f"PID|1||{self.patient}^^^^MR", pv1, at=_time(self._hour))
        if not self._events_are_recorded:
            message = message.replace(f"EVN||{_time(self._hour)}".encode(), f"EVN||{_time(happened)}".encode())
        self._tell("device_association", message)

    def _admission(self) -> None:
        event = self._draw.choice(["A02", "A02", "A03", "A03", "A03", "A13", "A08", "A11"])
        before = self._bed
        if event == "A02":
            self._bed = self._draw.choice(BEDS)
            return self._admit(event, self._hour, prior=self._draw.choice([before, ""]))  # without: rejected
        if event == "A03":
            self._left = self._draw.choice([self._hour, self._hour + 0.2, self._left])
            return self._admit(event, self._left, end=self._draw.choice(["", _time(self._left)]))
        return self._admit(event, self._hour, end=_time(self._left) if event == "A13" else "")

    def _encounter(self) -> None:
        name = self._draw.choice([*self._encounters, f"e{self._number}-{len(self._encounters)}"])
        found = self._encounters.setdefault(
            name,
            {
                "resourceType": "Encounter", "id": name, "status": "in-progress",
                "class": {"code": self._draw.choice(["IMP", "IMP", "AMB", "EMER"])},
                "subject": {"reference": f"Patient/{self.patient}"},
                "period": {"start": _iso(self._hour + 0.5)} | self._draw.choice([{}, {"end": _iso(self._hour - 0.1)}]),
            },
        )  # fmt: skip
        if name in self._versions:
            found["status"] = self._draw.choice(["finished", "finished", "in-progress"])
            found["period"].pop("end", None)
            if self._draw.random() < 0.6:  # of what goes on it is a planned one
                found["period"]["end"] = _iso(self._hour + self._draw.choice([0, 0.3, -0.1, -20]))
        self._tell("encounter", self._versioned(name, found))

    def _diagnosis(self) -> None:
        name = f"c{self._number}-{self._draw.choice([0, 0, 1])}"
        system = "http://terminology.hl7.org/CodeSystem/condition-clinical"
        found: dict[str, Any] = {
            "resourceType": "Condition", "id": name, "subject": {"reference": f"Patient/{self.patient}"},
            "code": {"coding": [{"system": "http://snomed.info/sct", "code": "77386006"}]}, "recordedDate": _iso(10),
        }  # fmt: skip
        if self._draw.random() < 0.7:  # else it is rejected
            found["encounter"] = {"reference": f"Encounter/{self._draw.choice(['e', 'V-'])}{self._number}-0"}
        if self._draw.random() < 0.4:
            found["clinicalStatus"] = {"coding": [{"system": system, "code": "inactive"}]}
        self._tell("condition", self._versioned(name, found))

    def _again(self) -> None:
        if not self.told:
            return
        dataset, hour, message = self._draw.choice(self.told[-2:])
        self._tell(dataset, message.replace(f"|{_time(hour)}||ADT".encode(), f"|{_time(self._hour)}||ADT".encode()))

    def _versioned(self, name: str, resource: dict[str, Any]) -> bytes:
        self._versions[name] = self._versions.get(name, 0) + 1
        meta = {"meta": {"versionId": str(self._versions[name])}} if self._counts_versions else {}
        return json.dumps(resource | meta).encode()


def _time(hours_ago: float) -> str:
    return hl7_time(clock.now() - timedelta(hours=hours_ago))


def _iso(hours_ago: float) -> str:
    return (clock.now() - timedelta(hours=hours_ago)).isoformat()


def _on_the_ward(ward: Ward, stories: list[Story]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with closing(open_online_store(ward.settings, load_keys(ward.home / "keys.yaml"))) as store:
        for story in stories:
            token = ward.token(story.patient)
            stay = store.facts.stay(token, as_of_us=clock.now_us())
            is_open = stay is not None and stay.discharged_us is None
            decisions = [*store.facts.decisions(token, encounter=stay.encounter)] if stay and is_open else []
            found[story.patient] = stay and (is_open, stay.unit, stay.bed, stay.pregnant, stay.sex, decisions)
    return found


def _decide(ward: Ward, story: Story, hours_ago: float) -> None:
    at_us, token = clock.now_us() - int(hours_ago * 3.6e9), ward.token(story.patient)
    with closing(open_online_store(ward.settings, load_keys(ward.home / "keys.yaml"))) as store:
        stay = store.facts.stay(token, as_of_us=at_us)
        one = Decision("spo2-scale-2", True, stay.encounter if stay else "", "x", at_us, "blood-gas-now")
        store.put_facts([(token, one.kind, at_us, one)])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_filling_changes_nothing_on_the_ward(home: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Also not where it is done twice, or is broken off and done again."""
    (home / "vitalake.yaml").write_text(JOBS)
    ward = Ward(home, begin=clock.now() - timedelta(hours=3))
    with monkeypatch.context() as frozen:  # or times of one message would differ from those of the next
        now = clock.now()
        frozen.setattr(clock, "now", lambda: now)
        stories = [Story(number, seed) for number in range(PATIENTS)]
    for turn in range(max(len(story.told) for story in stories)):
        here = sorted((story.told[turn] for story in stories if turn < len(story.told)), key=lambda one: -one[1])
        ward.tell(*(message for dataset, _, message in here if dataset == "device_association"), refused=None)
        for name in ("encounter", "condition"):
            polls = [(clock.now() - timedelta(hours=hour), [message]) for one, hour, message in here if one == name]
            ward.send(name, polls, refused=None)
        if turn == 2:
            for story in filter(lambda one: one.told, stories):
                _decide(ward, story, story.told[min(2, len(story.told) - 1)][1])
    before = _on_the_ward(ward, stories)
    assert len({*map(str, before.values())}) > 8, "there is something to lose"
    for _ in range(2):
        rebuild_online_store(ward.settings)
        assert _on_the_ward(ward, stories) == before

    def breaks_off(lake: Lake, since_us: int) -> Iterator[pa.Table]:
        for batch in batches(lake, since_us):
            yield batch.slice(0, batch.num_rows // 2)
            if lake.dataset.name == "encounter":
                raise KeyboardInterrupt

    batches = rewrites._batches
    with monkeypatch.context() as broken, suppress(KeyboardInterrupt):
        broken.setattr(rewrites, "_batches", breaks_off)
        rebuild_online_store(ward.settings)
    rebuild_online_store(ward.settings)
    assert _on_the_ward(ward, stories) == before
