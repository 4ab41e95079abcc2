"""Topics of several formats in one job, and one topic for several datasets: the ledger balances whatever comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.poll import Poll
from tests.fhir import message, observation
from tests.hl7 import PID, adt, obx, oru
from tests.hostile import bundle
from tests.hostile_flat import flat
from tests.services.polls import LaneWithoutKafka
from vitalake.errors import SettingsError
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise

RATE = oru(pv1="PV1|1|I|||||||||||||||||V-9")
PATIENT = {"resourceType": "Patient", "id": "p-1", "gender": "female", "name": [{"family": "Zzname"}]}


class Formats(LaneWithoutKafka):
    """A lane whose polls may be of any of its job's formats."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        lake = self.lane.lake
        if lake.dataset.name != "observation":
            lake.spans.begin_at(lake.dataset.name, dict.fromkeys(self.parts, 0))

    def take(self, name: str, messages: Sequence[bytes | None]) -> None:
        """Take a poll of a format."""
        begin, self.offsets[0] = self.offsets[0], self.offsets[0] + len(messages)
        stamps = np.full(len(messages), 1_795_000_000_000, np.int64)
        offsets = np.arange(begin, self.offsets[0])
        part = np.zeros(len(messages), np.int32)
        poll = Poll("vitals/0of1", name, list(messages), self.parts, part, offsets, stamps)
        self.lane.write(self.lane.mask(self.lane.conform(self.lane.decode(poll))))


def _configure(home: Path, formats: Sequence[str], dataset: str = "observation") -> None:
    topics = ", ".join(f"t{i}: {name}" for i, name in enumerate(formats))
    (home / "vitalake.yaml").write_text(f"jobs: {{vitals: {{topics: {{{topics}}}, dataset: {dataset}}}}}\n")


def test_a_job_of_several_formats_balances(home: Path) -> None:
    formats = ["fhir", "hl7-v2", "flat:bedside-monitor"]
    _configure(home, formats)
    lane = Formats(home)
    lane.take("fhir", [bundle(observation(1), PATIENT), bundle(PATIENT), b"{", None])
    lane.take("hl7-v2", [RATE, adt("A01", PID), oru(obx(value="x")), oru(obx(value="1000"))])
    lane.take("flat:bedside-monitor", [flat(), flat(hr=-1, spo2=None, nibp=None), b"[]"])
    lane.lane.finish()
    settings = lane.lane.settings
    counts = summarise(Lake(settings.lake_uri, {}).spans).total.counts
    assert (counts.messages, counts.decoded, counts.undecodable, counts.tombstones) == (11, 7, 3, 1)
    assert (counts.rows, counts.published, counts.rejected) == (8, 7, 1)
    rows = Lake(settings.lake_uri, {}).published.delta.to_pyarrow_table().to_pylist()
    assert sorted(row["code"] for row in rows) == [
        "59408-5",
        "8462-4",
        "8478-0",
        "8480-6",
        "8867-4",
        "8867-4",
        "8867-4",
    ]


@pytest.mark.parametrize(
    ("dataset", "name", "messages", "rows"),
    [
        ("patient", "fhir", [bundle(PATIENT, observation(1)), bundle(observation(1)), b"{"], 1),
        ("device_association", "hl7-v2", [adt("A01", PID, "PV1|1|I|ICU^1^2"), RATE, b"MSH"], 1),
    ],
)
def test_rows_of_other_datasets_balance(home: Path, dataset: str, name: str, messages: list[bytes], rows: int) -> None:
    _configure(home, [name], dataset)
    lane = Formats(home)
    lane.take(name, messages)
    lane.lane.finish()
    settings = lane.lane.settings
    counts = summarise(Lake(settings.lake_uri, {}).spans).total.counts
    assert (counts.messages, counts.decoded, counts.undecodable, counts.published) == (3, 2, 1, rows)
    published = Lake(settings.lake_uri, {}, dataset=dataset).published.delta.to_pyarrow_table()
    assert published.num_rows == rows
    text = json.dumps(published.to_pylist(), default=str)
    assert "Zzname" not in text
    assert "4711" not in text


def test_a_lane_does_not_start_with_a_profile_that_does_not_hold(home: Path) -> None:
    _configure(home, ["flat:own"])
    (home / "profiles").mkdir(exist_ok=True)
    (home / "profiles" / "own.yaml").write_text("format: flat\ndescription: x\nvalues: []\n")
    with pytest.raises(SettingsError, match=r"own\.yaml"):
        Formats(home)


def test_polls_that_differ_in_what_is_null_are_one_span(home: Path) -> None:
    """Whatever no message of a poll has: its columns are of the same types as those of any other."""
    _configure(home, ["fhir", "hl7-v2", "flat:bedside-monitor"])
    lane = Formats(home)
    coded = {"coding": [{"system": "http://snomed.info/sct", "code": "271594007"}]}
    polls = [
        [message(1)],
        [message(2, device=None, encounter=None)],
        [message(3, valueQuantity=None, valueCodeableConcept=coded)],
        [message(4, valueQuantity=None, valueCodeableConcept={"coding": [{"code": "x"}]})],
        [message(5, valueQuantity=None, valueString="words")],
        [message(6, valueQuantity=None, dataAbsentReason={"coding": [{"code": "error"}]})],
        [message(7, subject=None)],
        [message(8, issued="2025-06-01T10:00:00Z")],
    ]
    for poll in (*polls, [b"{"], *reversed(polls)):
        lane.take("fhir", poll)
    lane.take("hl7-v2", [oru()])
    lane.take("hl7-v2", [oru(obx(kind="CWE", value="271594007^x^SCT"), obr="OBR|1||F-2||||20250601100000")])
    lane.take("flat:bedside-monitor", [flat(patient="p-9")])
    lane.lane.finish()
    counts = summarise(Lake(lane.lane.settings.lake_uri, {}).spans).total.counts
    assert (counts.undecodable, counts.duplicate, counts.held, counts.published) == (1, 8, 1, 14)
