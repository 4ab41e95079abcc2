"""Rows, messages and questions by which the tests of the feed look at the online store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from models.news2 import News2, news2
from models.serving.ward import Chart, Ward
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.intake.steps import Steps
from pipelines.online_store.facts import Decision
from pipelines.online_store.opening import open_online_store
from pipelines.online_store.store import OnlineStore
from tests.attribution import Ward as Bedside
from tests.attribution import hl7_time
from tests.decoding import decoder_of
from tests.hl7 import MSH, adt, obx, oru
from vitalake import clock
from vitalake.clinical.records import History
from vitalake.keys import load_keys
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import StreamSettings, load_settings


def observation_steps(home: Path, **options: Any) -> Steps:
    stream = StreamSettings(**{"care": options.pop("care", True)})
    return Steps(load_settings(home), stream, load_dataset("observation"), **options)


def run_observations(
    steps: Steps, messages: list[bytes | None], *, first: int = 0, name: str = "fhir", minutes_ago: Sequence[float] = ()
) -> Outcome:
    count = len(messages)
    poll = Poll(
        shard="vitals/0of1",
        format=name,
        values=messages,
        parts=(PartId("vitals", "0123456789abcdefghijkl", 0),),
        part=np.zeros(count, np.int32),
        offset=np.arange(first, first + count),
        broker_ms=clock.now_us() // 1000 - (60_000 * np.array(minutes_ago or [0] * count)).astype(np.int64),
    )
    decoder = FhirDecoder(precise=False) if name == "fhir" else decoder_of(name)
    return steps.mask(steps.conform(DecodedPoll(poll, decoder.decode(messages))))


def open_store(home: Path) -> OnlineStore:
    settings = load_settings(home)
    return open_online_store(settings, load_keys(settings.path(settings.keys)))


def history_of(home: Path, outcome: Outcome) -> History:
    return open_store(home).history(outcome.rows["patient_id"][0].as_py())


def iso_minutes_ago(minutes_ago: float) -> str:
    moment: datetime = clock.now() - timedelta(minutes=minutes_ago)
    return moment.isoformat(timespec="seconds")


def run_admissions(home: Path, messages: list[bytes | None], *, minutes_behind: int = 0) -> Outcome:
    """Process ADT messages as a lane of associations does; the producer's clock can be behind."""
    dataset = "device_association"
    steps = Steps(load_settings(home), StreamSettings(), load_dataset(dataset))
    count = len(messages)
    parts = (PartId("adt", "0123456789abcdefghijkl", 0),)
    now_ms = clock.now_us() // 1000 - minutes_behind * 60_000
    poll = Poll(
        "adt/0of1", "hl7-v2", messages, parts, np.zeros(count, np.int32), np.arange(count), np.full(count, now_ms)
    )
    decoded = decoder_of("hl7-v2", dataset=dataset).decode(messages)
    return steps.mask(steps.conform(DecodedPoll(poll, decoded)))


def coded_value(code: str, value: float | None, unit: str, **elements: Any) -> dict[str, Any]:
    quantity = None if value is None else {"value": value, "system": "http://unitsofmeasure.org", "code": unit}
    return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": quantity, **elements}


def score_of(home: Path, outcome: Outcome) -> News2:
    return news2(history_of(home, outcome), as_of_us=clock.now_us())


def chart_of(home: Path, token: str) -> Chart:
    settings = load_settings(home)
    ward = Ward(settings, load_keys(settings.path(settings.keys)))
    ward.changed()
    chart = ward.chart(token)
    ward.close()
    assert chart is not None
    return chart


def run_records(home: Path, dataset: str, *resources: dict[str, Any]) -> Outcome:
    """Process FHIR resources as a lane of stays or of people does."""
    steps = Steps(load_settings(home), StreamSettings(), load_dataset(dataset))
    messages: list[bytes | None] = [json.dumps(resource).encode() for resource in resources]
    count = len(messages)
    parts = (PartId(dataset, "0123456789abcdefghijkl", 0),)
    now_ms = clock.now_us() // 1000
    poll = Poll(
        f"{dataset}/0of1", "fhir", messages, parts, np.zeros(count, np.int32), np.arange(count), np.full(count, now_ms)
    )
    try:
        return steps.mask(steps.conform(DecodedPoll(poll, decoder_of("fhir", dataset=dataset).decode(messages))))
    finally:
        steps.close()


def stay_resource(patient: str = "p-1") -> dict[str, Any]:
    return {
        "resourceType": "Encounter", "id": "e-1", "status": "in-progress",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"reference": f"Patient/{patient}"}, "period": {"start": iso_minutes_ago(120)},
    }  # fmt: skip


def result_message(at: str, number: int, born: str, *rows: str, died: str = "", patient: str = "1234") -> bytes:
    pid = f"PID|1||{patient}^^^HOSP^MR||Doe^Jane||{born}|F{'|' * 22}{died}"
    rows = rows or (obx(1, "8867-4^Heart rate^LN", "72", "/min^^UCUM"),)
    head = MSH.replace("20250601100001+0200", at)
    return oru(*rows, msh=head, pid=pid, pv1="", obr=f"OBR|1||F-{number}^M|V|||{at}")


PLACE_KINDS = "http://terminology.hl7.org/CodeSystem/location-physical-type"


def place_of(kind: str, name: str, status: str = "active") -> dict[str, Any]:
    coded = {"physicalType": {"coding": [{"system": PLACE_KINDS, "code": kind}]}} if kind else {}
    return {"location": {"display": name}, "status": status, **coded}


def hl7_hours_ago(hours: float) -> str:
    return (clock.now() - timedelta(hours=hours)).strftime("%Y%m%d%H%M%S+0000")


def pregnancy_resource(code: str = "77386006", **elements: Any) -> dict[str, Any]:
    resource = {
        "resourceType": "Condition", "id": "c-1", "subject": {"reference": "Patient/p-1"},
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": code}]},
        "encounter": {"reference": "Encounter/e-1"}, "recordedDate": iso_minutes_ago(60), "meta": {"versionId": "1"},
    }  # fmt: skip
    return {name: value for name, value in (resource | elements).items() if value is not None}


def status_concept(code: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": code}]}


def decide(home: Path, token: str, encounter: str, *, minutes_ago: int = 0) -> None:
    at_us = clock.now_us() - minutes_ago * 60_000_000
    decision = Decision("pregnancy", True, encounter, "somebody", at_us, "test-or-scan")
    open_store(home).put_facts([(token, decision.kind, decision.at_us, decision)])


def kinds_decided(home: Path, token: str) -> list[str]:
    store = open_store(home)
    stay = store.facts.stay(token, as_of_us=clock.now_us())
    return [*store.facts.decisions(token, encounter=stay.encounter if stay else "")]


def told_of_bed(ward: Bedside, *results: str, seconds: float) -> bytes:
    at = hl7_time(ward.at(seconds))
    msh = MSH.replace("20250601100001+0200", at)
    return oru(*results, msh=msh, pid="PID|1", pv1="PV1|1|I|4W^12^A", obr=f"OBR|1||F-{seconds}^MON|VITALS|||{at}")


def visit_message(event: str, place: str, at: float, *, said: str = "", prior: str = "", end: str = "") -> bytes:
    """Return a message of visit V-1, a number of hours ago, with given times of admission and end."""
    pv1 = f"PV1|1|I|{place}|||{prior}" + "|" * 13 + "V-1" + "|" * 25 + f"{said}|{end}"
    return adt(event, "PID|1||p-1^^^^MR", pv1, at=hl7_hours_ago(at))


def lies_in(home: Path, token: str, *, in_minutes: float = 0) -> tuple[str, str, bool]:
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us() + int(in_minutes * 60_000_000))
    return ("", "", False) if stay is None else (stay.unit, stay.bed, stay.discharged_us is None)
