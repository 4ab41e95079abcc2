"""Writes associations that were entered by hand: as rows of the lake, in a span of a job of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import numpy as np
import pyarrow as pa

from governance.belonging import admit
from pipelines.core.poll import DecodedPoll, Poll
from pipelines.core.takeover import ONE_SHARD
from pipelines.formats.shared.result import Decoded
from pipelines.intake.fenced import FencedSteps
from vitalake import clock
from vitalake.errors import InputError
from vitalake.home import Home
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.unlinkable.own_times import marked
from vitalake.settings import Settings, StreamSettings

DATASET = "device_association"
JOB = "devices"
PART = PartId("by-hand", hashlib.sha256(b"vitalake devices by hand").hexdigest()[:22], 0)

_ID_BYTES = 16
_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """An association of a device with a patient; a later entry for the same device and beginning replaces it.

    Attributes:
        device: id of the device, as its messages give it.
        patient: source id of the patient.
        encounter: source id of the stay.
        since: the beginning, with a time zone.
        until: the end, exclusive; None: open.
        mistake: the association was entered in error and never existed.
    """

    device: str
    patient: str
    encounter: str | None
    since: datetime
    until: datetime | None = None
    mistake: bool = False

    def __repr__(self) -> str:
        """Return no identifier."""
        return "Entry(…)"


def enter(settings: Settings, entries: Sequence[Entry]) -> None:
    """Write associations to the lake; they are decided and added when this returns.

    Raises:
        InputError: an entry is not valid.
        PrivacyError: keys or rules are not valid, or the lake belongs to another home.
        KeyRevoked: patients' keys are not available; nothing was written.
        ServiceUnavailable: lake or vault cannot be reached.
    """
    for entry in entries:
        checked(entry)
    admit(settings, identified=True)
    lake = Home(settings).lake(DATASET)
    lake.open_all()
    stream = StreamSettings(topics={}, dataset=DATASET)
    steps = FencedSteps(settings, stream, lake, purpose="devices")
    writer = steps.take_over(
        job=JOB, parts=[PART], decoder="by-hand/1", span_seconds=60, span_rows=100_000, late_seconds=0
    )
    try:
        poll = _poll(entries, writer.positions[PART])
        message = np.arange(len(entries), dtype=np.int32)
        decoded = Decoded(_rows(settings, entries), [None] * len(entries), message)
        writer.take(steps.mask(steps.conform(DecodedPoll(poll, decoded))))
        writer.cut()
        writer.flush()
    finally:
        writer.close()
        steps.close()


def checked(entry: Entry) -> Entry:
    """Return the entry if it is valid.

    Raises:
        InputError: it is not valid; the error shows none of its values.
    """
    texts = (entry.device, entry.patient, entry.encounter or "-")
    if any(not text.strip() or len(text) > _MAX_LENGTH or not text.isprintable() for text in texts):
        raise InputError(
            "Device, patient or encounter is not a valid identifier",
            where="devices associate",
            remedy=f"Give one line of printable text for each, at most {_MAX_LENGTH} characters.",
        )
    if entry.until is not None and entry.until <= entry.since:
        raise InputError("Association ends before it begins", where="--until", remedy="Give a later time.")
    return entry


def _poll(entries: Sequence[Entry], position: int) -> Poll:
    count = len(entries)
    return Poll(
        shard=f"{JOB}/{ONE_SHARD}",
        format="by-hand",
        values=[msgspec.json.encode({"device": entry.device}) for entry in entries],
        parts=(PART,),
        part=np.zeros(count, np.int32),
        offset=np.arange(position, position + count, dtype=np.int64),
        broker_ms=np.full(count, clock.now_us() // 1000),
    )


def _rows(settings: Settings, entries: Sequence[Entry]) -> pa.RecordBatch:
    key = Home(settings).keys.current("observation").secret
    now = marked(clock.now_us())  # published coarsely, as every time of ours: it would show the order of the list
    names = [_identity(key, entry) for entry in entries]
    columns = {
        "association_id": names,
        # Of two entries for the same association the later one gets the higher version.
        "version": [now + names[:i].count(name) for i, name in enumerate(names)],
        "device_id": [entry.device for entry in entries],
        "patient_id": [entry.patient for entry in entries],
        "encounter_id": [entry.encounter for entry in entries],
        "valid_from": [entry.since for entry in entries],
        "valid_to": [entry.until for entry in entries],
        "status": ["entered-in-error" if entry.mistake else "active" for entry in entries],
        "available_at": [now] * len(entries),
    }
    schema = load_dataset(DATASET).schema
    return pa.RecordBatch.from_arrays(
        [pa.array(values, schema.field(name).type) for name, values in columns.items()], names=list(columns)
    )


def _identity(key: bytes, entry: Entry) -> bytes:
    """Return the id of an association that was entered by hand, derived from its device and its beginning."""
    text = f"by-hand\0{entry.device}\0{int(entry.since.timestamp() * 1e6)}"
    return hashlib.blake2b(text.encode(), key=key, digest_size=_ID_BYTES).digest()
