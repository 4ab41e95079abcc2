"""The attribution step in the lane: the patients of a device's rows, which messages are held, and what is counted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.attribution.held import HELD
from pipelines.core.dead_letters import open_payload
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.intake.steps import Steps, make_sealer
from pipelines.reconcile.entering import Entry, enter
from pipelines.reprocess.writing import counts_of
from tests.fhir import message, observation
from vitalake import clock
from vitalake.errors import InputError
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import StreamSettings, load_settings

BEGIN = datetime(2025, 6, 1, 10, tzinfo=UTC)
PART = PartId("vitals", "0123456789abcdefghijkl", 0)


def bed(number: int, device: str = "bed-1", **changes: object) -> bytes:
    """Return the message of a device that names no patient; one second each from ten o'clock on."""
    return message(number, subject=None, encounter=None, device={"reference": f"Device/{device}"}, **changes)


def at(seconds: float) -> datetime:
    """Return the time that is this much after the first message's."""
    return BEGIN + timedelta(seconds=seconds)


def attributed(home: Path, messages: list[bytes | None]) -> Outcome:
    """Return the outcome of the steps for messages, as of now."""
    steps = Steps(load_settings(home), StreamSettings(care=False), load_dataset("observation"))
    count = len(messages)
    poll = Poll(
        shard="vitals/0of1",
        format="fhir",
        values=messages,
        parts=(PART,),
        part=np.zeros(count, np.int32),
        offset=np.arange(count),
        broker_ms=np.full(count, clock.now_us() // 1000),
    )
    try:
        decoded = FhirDecoder(precise=False).decode(messages)
        return steps.mask(steps.conform(DecodedPoll(poll, decoded)))
    finally:
        steps.close()


def patients(home: Path, outcome: Outcome) -> list[tuple[str, str | None, float | None]]:
    """Return patient, encounter and value of the restricted rows."""
    steps = Steps(load_settings(home), StreamSettings(care=False), load_dataset("observation"))
    try:
        rows = steps.sealer.open(pa.Table.from_batches([outcome.extra["restricted/observation"]]))  # type: ignore[union-attr]
    finally:
        steps.close()
    return [(row["patient_id"], row["encounter_id"], row["value"]) for row in rows.to_pylist()]


def test_a_device_without_an_association_is_held_whole(home: Path) -> None:
    outcome = attributed(home, [bed(0), message(1), bed(2, "bed-2")])
    assert outcome.message.tolist() == [1]
    assert outcome.held.tolist() == [0, 2]
    held = outcome.extra[HELD].to_pylist()
    assert [row["position"] for row in held] == [0, 2]
    assert held[0]["device_key"] != held[1]["device_key"]
    assert held[0]["earliest_effective_at"] == held[0]["latest_effective_at"] == at(0)
    assert open_payload(held[0], load_keys(home / "keys.yaml")) == bed(0)
    assert counts_of(outcome).balanced
    assert outcome.associations >= 1


def test_rows_become_the_patients_who_were_there(home: Path) -> None:
    enter(
        load_settings(home),
        [Entry("bed-1", "p-A", "e-A", at(-10), at(5)), Entry("bed-1", "p-B", None, at(5))],
    )
    outcome = attributed(home, [bed(0), bed(4), bed(5), message(6, patient="p-C"), bed(600)])
    found = patients(home, outcome)
    assert [row[:2] for row in found[-5:]] == [
        ("p-A", "e-A"), ("p-A", "e-A"), ("p-B", None), ("p-C", "e-1"), ("p-B", None),
    ]  # fmt: skip
    rows = outcome.rows.to_pylist()
    assert [row["attribution"] and row["attribution"] % 2 for row in rows] == [1, 1, 1, None, 1]
    assert [row["told_at"] is None for row in rows] == [False, False, False, True, False]
    identified = outcome.extra["restricted/observation"].to_pylist()
    assert [row["told_at"] == row["available_at"] for row in identified] == [True, True, True, False, True]
    assert rows[0]["patient_id"] == rows[1]["patient_id"] != rows[2]["patient_id"]
    assert not outcome.held.size
    assert counts_of(outcome).balanced


def test_what_was_known_before_the_association_becomes_the_patients_from_then_on(home: Path) -> None:
    enter(load_settings(home), [Entry("bed-1", "p-A", "e-A", at(-10))])
    outcome = attributed(home, [bed(0, issued="2025-06-01T10:00:00Z"), bed(1)])
    rows = outcome.rows.to_pylist()
    assert rows[0]["told_at"] == at(0)
    assert rows[0]["available_at"] > at(0)
    known = outcome.extra["restricted/observation"].to_pylist()[0]["available_at"]
    assert clock.now() - timedelta(minutes=5) < known <= clock.now()
    assert rows[0]["available_at"].date() == known.date() + timedelta(days=1), "published, the end of its day"
    assert len(rows) == 2


def test_a_change_known_before_the_message_came_is_written_as_it_was_known(home: Path) -> None:
    settings = load_settings(home)
    enter(settings, [Entry("bed-1", "p-A", "e-A", at(-10))])
    enter(settings, [Entry("bed-1", "p-B", "e-B", at(-10))])
    outcome = attributed(home, [bed(0, issued="2025-06-01T10:00:00Z", valueQuantity=_beats(61))])
    assert patients(home, outcome) == [("p-A", "e-A", 61.0), ("p-A", "e-A", None), ("p-B", "e-B", 61.0)]
    rows = outcome.rows.to_pylist()
    assert [row["status"] for row in rows] == ["final", "entered-in-error", "final"]
    numbers = [row["attribution"] for row in rows]
    assert [number % 2 for number in numbers] == [1, 0, 1]
    assert numbers == sorted(numbers), "also where both entries are of one second"
    known = [row["available_at"] for row in outcome.extra["restricted/observation"].to_pylist()]
    assert known[0] < known[1] == known[2]
    assert rows[0]["available_at"] <= rows[1]["available_at"] == rows[2]["available_at"], "of one second they are one"
    assert len({row["observation_id"] for row in rows}) == 1
    assert counts_of(outcome).balanced
    assert counts_of(outcome).published == 3


def test_a_mistake_is_as_if_it_had_never_been(home: Path) -> None:
    settings = load_settings(home)
    enter(settings, [Entry("bed-1", "p-A", None, at(-10))])
    enter(settings, [Entry("bed-1", "p-A", None, at(-10), mistake=True)])
    outcome = attributed(home, [bed(0)])
    assert outcome.held.tolist() == [0]


def test_a_panel_is_held_whole_and_named_messages_pass(home: Path) -> None:
    enter(load_settings(home), [Entry("bed-1", "p-A", None, at(-10), at(3))])
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"resource": observation(number, subject=None, encounter=None, device={"reference": "Device/bed-1"})}
            for number in (2, 3)
        ],
    }
    outcome = attributed(home, [json.dumps(bundle).encode(), bed(1)])
    assert outcome.held.tolist() == [0, 0]
    assert outcome.message.tolist() == [1]
    held = outcome.extra[HELD].to_pylist()
    assert [row["rows"] for row in held] == [2]
    assert held[0]["earliest_effective_at"] == at(3), "of the rows that wait"


def test_the_association_is_published_masked(home: Path) -> None:
    settings = load_settings(home)
    enter(settings, [Entry("bed-MARKER", "p-MARKER", "e-MARKER", at(-10), at(3))])
    lake = Lake(settings.lake_uri, settings.storage_options, dataset="device_association")
    rows = lake.published.scan().to_pylist()
    assert [row["valid_from"] for row in rows] == [at(-10)]
    assert "MARKER" not in str(rows)
    assert rows[0]["patient_id"].startswith("v1.")
    assert all(b"MARKER" not in path.read_bytes() for path in (home / "lake").rglob("*.parquet"))
    keys = load_keys(settings.path(settings.keys))
    steps = Steps(settings, StreamSettings(dataset="device_association"), lake.dataset)
    sealed = lake.restricted.scan()
    opened = make_sealer(lake.dataset, steps.vault, keys).open(sealed).to_pylist()
    steps.close()
    assert [(row["device_id"], row["patient_id"]) for row in opened] == [("bed-MARKER", "p-MARKER")]


@pytest.mark.parametrize(
    "entry",
    [
        Entry("", "p", None, at(0)),
        Entry("d", " ", None, at(0)),
        Entry("d", "p\n", None, at(0)),
        Entry("d", "p", "e" * 300, at(0)),
        Entry("d", "p", None, at(0), at(0)),
    ],
)
def test_what_is_no_association_is_refused_without_a_word_of_it(home: Path, entry: Entry) -> None:
    with pytest.raises(InputError):
        enter(load_settings(home), [entry])
    assert not (home / "lake").exists()


def _beats(value: float) -> dict[str, object]:
    return {"value": value, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"}
