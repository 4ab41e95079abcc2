"""A ward for tests of attribution: beds whose devices know no patient, messages, associations, and what is where."""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from governance.policy.masks import Pseudonyms
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.core.writer import SpanWriter
from pipelines.formats.registry import make_decoder
from pipelines.formats.shared.result import Decoded
from pipelines.intake.steps import Steps
from pipelines.online_store.opening import open_online_store
from pipelines.reconcile.entering import Entry, enter
from pipelines.reconcile.reconciler import Attribution, Report
from tests.fhir import message
from tests.hl7 import MSH, obx, oru
from vitalake import clock
from vitalake.keys import KeyRing, load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings, StreamSettings, load_settings

PART = PartId("vitals", "0123456789abcdefghijkl", 0)
ADT = PartId("adt", "abcdefghijkl0123456789", 0)


def beds(number: int, bed: str = "bed-1", *, begin: datetime, **changes: object) -> bytes:
    """Return the message of a bed's monitor so many seconds after the beginning; its value is the second."""
    at = begin + timedelta(seconds=number)
    elements: dict[str, object] = {
        "identifier": [{"system": "urn:oid:2.16.840.1.113883.19", "value": f"{bed}-{number}"}],
        "subject": None,
        "encounter": None,
        "device": {"reference": f"Device/{bed}"},
        "effectiveDateTime": at.isoformat(),
        "issued": at.isoformat(),
        "valueQuantity": {"value": 30.0 + number, "system": "http://unitsofmeasure.org", "code": "/min"},
    }
    return message(number, **(elements | changes))


@dataclass
class Ward:
    """One home, written to without a broker."""

    home: Path
    begin: datetime = field(default_factory=lambda: (clock.now() - timedelta(minutes=10)).replace(microsecond=0))
    sent: int = 0
    told: int = 0
    records: Counter[str] = field(default_factory=Counter)

    @property
    def settings(self) -> Settings:
        """The home's settings."""
        return load_settings(self.home)

    @property
    def keys(self) -> KeyRing:
        """The home's keys."""
        return load_keys(self.home / "keys.yaml")

    @property
    def lake(self) -> Lake:
        """The lake, opened afresh."""
        return Lake(self.settings.lake_uri, self.settings.storage_options)

    def at(self, seconds: float) -> datetime:
        """Return a moment so many seconds after the beginning."""
        return self.begin + timedelta(seconds=seconds)

    def bed(self, number: int, bed: str = "bed-1", **changes: object) -> bytes:
        """Return the message of a bed's monitor."""
        return beds(number, bed, begin=self.begin, **changes)

    def oru(self, number: int, bed: str) -> bytes:
        """Return the message of a bed's monitor that speaks HL7 v2, and names its bed only."""
        at = hl7_time(self.at(number))
        return oru(
            obx(value=str(30 + number)),
            msh=MSH.replace("20250601100001+0200", at),
            pid="PID|1",
            pv1=f"PV1|1|I|{bed}",
            obr=f"OBR|1||{bed.replace('^', '-')}-{number}^MON|VITALS|||{at}",
        )

    def oru_of(self, patient: str, number: int, value: str) -> bytes:
        """Return a result of a patient of whom nothing else is said."""
        at = hl7_time(self.at(number))
        return oru(
            obx(value=value),
            msh=MSH.replace("20250601100001+0200", at),
            pid=f"PID|1||{patient}^^^^MR",
            pv1="PV1|1|I|",
            obr=f"OBR|1||F-{number}^MON|VITALS|||{at}",
        )

    # -- writing -------------------------------------------------------------------------------------------------

    def associate(
        self, bed: str, patient: str, since: float, until: float | None = None, *, mistake: bool = False
    ) -> None:
        """Say by hand who a bed is with."""
        end = None if until is None else self.at(until)
        enter(self.settings, [Entry(bed, patient, f"e-{patient}", self.at(since), end, mistake=mistake)])

    def stream(self, messages: Sequence[bytes | None], *, steps: Steps | None = None, name: str = "fhir") -> Outcome:
        """Take messages in as a lane does, by a span of its own; ``steps`` may know less than is there."""
        own = steps or self.steps()
        try:
            return self._decide([own.mask(self.conformed(messages, own, name=name))], own, "observation")
        finally:
            if steps is None:
                own.close()

    def tell(self, *messages: bytes, refused: int | None = 0) -> None:
        """Take in what an ADT feed says; so many messages are refused, None: any number."""
        if not messages:
            return
        dataset = "device_association"
        stream = StreamSettings(topics={"adt": "hl7-v2"}, dataset=dataset)
        steps = Steps(self.settings, stream, load_dataset(dataset))
        decoder = make_decoder("hl7-v2", dataset=dataset, stream=stream, settings=self.settings)
        try:
            poll = self._poll(messages, "hl7-v2", ADT, self.told)
            outcome = steps.mask(steps.conform(DecodedPoll(poll, decoder.decode(messages))))
            assert refused in (None, len(outcome.rejects)), outcome.rejects
            self._decide([outcome], steps, dataset)
        finally:
            steps.close()
        self.told += len(messages)

    def send(self, dataset: str, polls: Sequence[tuple[datetime, Sequence[bytes]]], *, refused: int | None = 0) -> None:
        """Take in FHIR messages of a dataset, poll by poll, each when it came, by one span of a topic of its own.

        So many of each poll are refused, None: any number.
        """
        if not polls:
            return
        part = PartId(f"{dataset}s", "mnopqrstuvwxyz01234567", 0)
        stream = StreamSettings(topics={part.topic: "fhir"}, dataset=dataset)
        steps = Steps(self.settings, stream, load_dataset(dataset))
        decoder = make_decoder("fhir", dataset=dataset, stream=stream, settings=self.settings)
        outcomes = []
        try:
            for came, messages in polls:
                poll = self._poll(messages, "fhir", part, self.records[dataset], came=came)
                steps.ingested_us = int(came.timestamp() * 1e6)
                outcomes.append(steps.mask(steps.conform(DecodedPoll(poll, decoder.decode(messages)))))
                assert refused in (None, len(outcomes[-1].rejects)), outcomes[-1].rejects
                self.records[dataset] += len(messages)
            self._decide(outcomes, steps, dataset)
        finally:
            steps.close()

    def spread(self, topic: str, partitions: int, keyed: Mapping[str, bytes], *, shard: int = 0, of: int = 1) -> None:
        """Take in a message of each key, of those partitions that one of the workers reads; a key's hash says which."""
        parts = tuple(PartId(topic, f"{topic:x<22}", number) for number in range(shard, partitions, of))
        placed = [(partition_of(key, partitions), value) for key, value in keyed.items()]
        mine = [(part // of, value) for part, value in placed if part % of == shard]
        numbers: Counter[int] = Counter()
        offsets = []
        for part, _ in mine:
            offsets.append(numbers[part])
            numbers[part] += 1
        poll = replace(
            self._poll([value for _, value in mine], "fhir", parts[0], 0),
            parts=parts, part=np.array([part for part, _ in mine], np.int32), offset=np.array(offsets, np.int64),
        )  # fmt: skip
        decoder = make_decoder("fhir", dataset="observation", stream=StreamSettings(), settings=self.settings)
        steps = self.steps()
        try:
            outcome = steps.mask(steps.conform(DecodedPoll(poll, decoder.decode(poll.values))))
            self._decide([outcome], steps, "observation", shard=f"{shard}of{of}")
        finally:
            steps.close()

    def say(self, name: bytes, version: int, bed: str, patient: str, since: float, *, known: datetime) -> None:
        """Take in one version of an association that has a name."""
        dataset = load_dataset("device_association")
        row = {
            "association_id": name.ljust(16), "version": version, "device_id": bed, "patient_id": patient,
            "valid_from": self.at(since), "status": "active", "available_at": known,
        }  # fmt: skip
        batch = pa.Table.from_pylist([row], pa.schema([dataset.schema.field(column) for column in row])).to_batches()[0]
        steps = Steps(self.settings, StreamSettings(dataset=dataset.name), dataset)
        try:
            poll = self._poll([b""], "hl7-v2", ADT, self.told)
            decoded = Decoded(batch, [None], np.zeros(1, np.int32))
            self._decide([steps.mask(steps.conform(DecodedPoll(poll, decoded)))], steps, dataset.name)
        finally:
            steps.close()
        self.told += 1

    def steps(self) -> Steps:
        """Return the steps of a lane."""
        return Steps(self.settings, StreamSettings(), load_dataset("observation"))

    def _decide(self, outcomes: Sequence[Outcome], steps: Steps, dataset: str, *, shard: str = "0of1") -> Outcome:
        """Decide outcomes by a span of their own; return the last one."""
        outcome = outcomes[0]
        poll, part = outcome.poll, outcome.poll.parts[0]
        begins = {poll.parts[i]: int(poll.offset[poll.part == i].min()) for i in set(poll.part.tolist())}
        lake = Lake(self.settings.lake_uri, self.settings.storage_options, dataset=dataset)
        lake.open_all()
        epoch = lake.spans.begin_epoch(job=part.topic, shard=shard)
        known = lake.spans.positions(dataset, [*begins])
        lake.spans.begin_at(dataset, {part: 0 for part, position in known.items() if position is None})
        writer = SpanWriter(
            lake, job=part.topic, shard=shard, epoch=epoch, fence=lake.spans.fence(dataset),
            rules=steps.plan.version, decoder="test/1", dead_letters=steps.dead_letters, span_seconds=60,
            span_rows=1_000_000, late_seconds=3600, positions=begins, watermarks={},
            stop=threading.Event(), on_committed=lambda _: None, on_paused=lambda _: None,
        )  # fmt: skip
        for outcome in outcomes:
            writer.take(outcome)
        writer.cut()
        writer.flush()
        writer.close()
        if part == PART:
            self.sent += len(outcome.poll.values)
        return outcome

    @staticmethod
    def _poll(
        messages: Sequence[bytes | None], name: str, part: PartId, begin: int, *, came: datetime | None = None
    ) -> Poll:
        count, came_ms = len(messages), clock.now_us() // 1000 if came is None else int(came.timestamp() * 1e3)
        return Poll(
            shard=f"{part.topic}/0of1",
            format=name,
            values=list(messages),
            parts=(part,),
            part=np.zeros(count, np.int32),
            offset=np.arange(begin, begin + count),
            broker_ms=np.full(count, came_ms),
        )

    def conformed(self, messages: Sequence[bytes | None], steps: Steps, *, name: str = "fhir") -> Outcome:
        """Return messages decoded and conformed, as a lane would read them next."""
        decoder = make_decoder(name, dataset="observation", stream=StreamSettings(), settings=self.settings)
        poll = self._poll(messages, name, PART, self.sent)
        return steps.conform(DecodedPoll(poll, decoder.decode(messages)))

    def attribute(self) -> Report:
        """Let an attributor look once."""
        attributor = Attribution(self.settings)
        try:
            return attributor.run()
        finally:
            attributor.close()

    # -- what is where -------------------------------------------------------------------------------------------

    def token(self, patient: str) -> str:
        """Return a patient's pseudonym."""
        return Pseudonyms(self.keys, "patient-identifier").token(patient)

    def restricted(self) -> pa.Table:
        """Return the identified rows."""
        steps = self.steps()
        try:
            assert steps.sealer is not None
            return steps.sealer.open(self.lake.restricted.scan())
        finally:
            steps.close()

    def everywhere(self, patients: Sequence[str]) -> dict[float, str]:
        """Return whose each second's value is, after asserting that all zones say the same of every patient.

        In published and restricted zone, of each patient's own rows the last one counts; and of all rows.
        """
        tokens = {self.token(patient): patient for patient in patients}
        published = shown(self.lake.published.scan().to_pylist(), tokens)
        restricted = shown(self.restricted().to_pylist(), {patient: patient for patient in patients})
        assert published == restricted
        care: dict[float, str] = {}
        store = open_online_store(self.settings, self.keys)
        try:
            for token, patient in tokens.items():
                for value in store.history(token).value.tolist():
                    assert value - 30.0 not in care, "a value is one patient's"
                    care[value - 30.0] = patient
        finally:
            store.close()
        assert care == published
        return published


def shown(rows: list[dict[str, object]], names: dict[str, str]) -> dict[float, str]:
    """Return whose each second's value is by the order of the view, asserting that each patient's own rows agree."""
    rows = [row | {"attribution": row["attribution"] or 0} for row in rows]
    rows.sort(key=lambda row: (row["version"], row["available_at"], row["attribution"]))
    last: dict[object, dict[str, object]] = {}
    own: dict[tuple[object, object], dict[str, object]] = {}
    for row in rows:
        last[row["observation_id"]] = own[row["observation_id"], row["patient_id"]] = row
    assert {(name, p) for (name, p), row in own.items() if row["status"] != "entered-in-error"} == {
        (name, row["patient_id"]) for name, row in last.items() if row["status"] != "entered-in-error"
    }
    return {
        float(str(row["value"])) - 30.0: names[str(row["patient_id"])]
        for row in last.values()
        if row["status"] != "entered-in-error"
    }


def partition_of(key: str, partitions: int) -> int:
    """Return where a producer puts a message by its key, which everybody can compute."""
    return zlib.crc32(key.encode()) % partitions


def hl7_time(at: datetime) -> str:
    """Return a moment as HL7 v2 writes it."""
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def pid(patient: str) -> str:
    """Return the segment of a patient."""
    return f"PID|1||{patient}^^^HOSP^MR||DOE^JANE"


def pv1(bed: str, prior: str = "", *, visit: str, began: datetime | None = None) -> str:
    """Return the segment of a stay; a bed is ``ICU^1^2``."""
    fields = [""] * 46
    fields[2:4] = ["I", bed]
    fields[6], fields[19] = prior, visit
    fields[44] = hl7_time(began) if began else ""
    return "|".join(["PV1", "1", *fields[2:]]).rstrip("|")
