"""FHIR R4 Observation and Bundle of Observations, by typed decoding; strict, every message on its own."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.decoding.elements import code_of, device_of, encounter_of, quantity_of, subject_of, version_of
from pipelines.decoding.fhir_structs import STATUSES, Bundle, Observation
from pipelines.decoding.gathering import Gathered, flags
from pipelines.decoding.paths import PreciseReasons, fhir_path, reason_of
from pipelines.decoding.raw import Encoded, RawElement, dictionary
from pipelines.decoding.reasons import Reason
from pipelines.decoding.result import DECODED_SCHEMA, Decoded, Reject
from pipelines.decoding.times import Times, parse_times
from pipelines.decoding.values import value_columns

MOST_ROWS = 2_000
"""Rows a message may have: a chart's worth of panels; a megabyte of tiny components would be ten times that."""

CHUNK = 1_000
"""Messages parsed at a time: their objects, about a megabyte, stay in the processor's cache until they are freed."""

_STATUS_INDEX = {status: i for i, status in enumerate(STATUSES)}
_PARSE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector from walking the batch while it grows; that took half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class FhirDecoder:
    """Decodes messages of FHIR R4 JSON."""

    name = "fhir-r4"
    version = "1"

    def __init__(self, *, max_message_bytes: int = 1_048_576, precise: bool = True) -> None:
        """Make a decoder; not to be shared between threads.

        Args:
            max_message_bytes: longer messages are rejected unread.
            precise: ask fhir.resources for the reason of a reject, where it is installed.
        """
        self._most_bytes = max_message_bytes
        self._decoder = msgspec.json.Decoder(Observation | Bundle)
        self._precise = PreciseReasons() if precise else None
        self._code = RawElement(code_of, "Observation.code")
        self._subject = RawElement(subject_of, "Observation.subject")
        self._encounter = RawElement(encounter_of, "Observation.encounter")
        self._device = RawElement(device_of, "Observation.device")
        self._quantity = RawElement(quantity_of, "Observation.valueQuantity")
        self._meta = RawElement(version_of, "Observation.meta")

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            tombstones = [i for i, value in enumerate(values) if value is None] if None in values else []
            gathered = Gathered()
            for begin in range(0, len(values), CHUNK):
                resources, message = self._parse(values[begin : begin + CHUNK], begin, rejects)
                gathered.take(*_unbundle(resources, message, rejects))
            decoded = self._columns(gathered, rejects)
            decoded.tombstones.extend(tombstones)
            decoded.rejects.extend(self._explained(rejects, values))
            return decoded

    # -- parsing -------------------------------------------------------------------------------------------------

    def _parse(
        self, values: Sequence[bytes | None], begin: int, rejects: dict[int, Reject]
    ) -> tuple[list[Observation | Bundle], list[int]]:
        """Return the resources of a chunk, and of each the index of its message."""
        message = list(range(begin, begin + len(values)))
        if None in values or max(map(len, values)) > self._most_bytes:  # type: ignore[arg-type]
            message = self._readable(values, message, rejects)
            values = [values[i - begin] for i in message]
        parsed: list[Observation | Bundle] = []
        decode, keep = self._decoder.decode, parsed.append
        remaining = iter(values)
        while True:
            try:
                for value in remaining:
                    keep(decode(value))  # type: ignore[arg-type]
            except _PARSE_ERRORS as error:  # one of them is bad: the loop goes on behind it
                i = message.pop(len(parsed))
                rejects[i] = Reject(i, reason_of(error), fhir_path(str(error)))
            else:
                return parsed, message

    def _readable(self, values: Sequence[bytes | None], message: list[int], rejects: dict[int, Reject]) -> list[int]:
        """Return the messages of a chunk that are to be parsed: no tombstones, nothing too large."""
        readable = []
        for i, value in zip(message, values, strict=True):
            if value is not None and len(value) > self._most_bytes:
                rejects[i] = Reject(i, Reason.TOO_LARGE)
            elif value is not None:
                readable.append(i)
        return readable

    def _explained(self, rejects: dict[int, Reject], values: Sequence[bytes | None]) -> list[Reject]:
        ordered = [rejects[i] for i in sorted(rejects)]
        return self._precise.explain(ordered, values) if self._precise else ordered

    # -- columns -------------------------------------------------------------------------------------------------

    def _columns(self, gathered: Gathered, rejects: dict[int, Reject]) -> Decoded:
        """Make columns of what was gathered; leave out every message one of whose parts was refused."""
        message = np.array(gathered.message, np.int32)
        item_of = np.array(gathered.observation, np.int32)
        whole = _Refusals(message, rejects)
        items = _Refusals(message[item_of], rejects)
        subject = self._subject.encode(gathered.subjects)
        encounter, device = self._encounter.encode(gathered.encounters), self._device.encode(gathered.devices)
        meta = self._meta.encode(gathered.metas)
        # Who is meant by a device's own message is told by who the device was with: see device_association.
        whole.mark((subject.index < 0) & (device.index < 0), Reason.NO_SUBJECT, "Observation.subject")
        for column in (subject, encounter, device, meta):
            whole.of(column)
        effective, issued = _times(gathered, whole)
        _check_identities(gathered.identities, whole)
        whole.mark(flags(len(message), gathered.modified), Reason.MODIFIED, "Observation.modifierExtension")
        codes, quantities = self._code.encode(gathered.codes), self._quantity.encode(gathered.quantities)
        items.mark(codes.index < 0, Reason.NO_CODE, "Observation.code")
        items.of(codes)
        items.of(quantities)
        modified = flags(len(item_of), gathered.modified_items)
        items.mark(modified, Reason.MODIFIED, "Observation.component.modifierExtension")
        statuses = np.array(list(map(_STATUS_INDEX.__getitem__, gathered.statuses)), np.int32)
        columns = {
            "version": pa.array(_versions(meta)[item_of]),
            "patient_id": dictionary(subject.index[item_of], subject.values),
            "encounter_id": dictionary(encounter.index[item_of], encounter.values),
            "device_id": dictionary(device.index[item_of], device.values),
            "code": codes.strings(),
            "panel_code": self._panels(gathered, items),
            "status": dictionary(statuses[item_of], STATUSES),
            **_time_columns(effective, issued, item_of),
            **value_columns(quantities, gathered.others, items.mark),
        }
        identities = gathered.identities
        if gathered.has_panels:
            identities = [identities[i] for i in gathered.observation]
        return _without_refused(columns, identities, message[item_of], rejects)

    def _panels(self, gathered: Gathered, items: _Refusals) -> pa.DictionaryArray:
        if not gathered.has_panels:
            return dictionary(np.full(len(gathered.codes), -1, np.int32), [])
        column = self._code.encode(gathered.panel_codes)
        nameless = np.array([text == b"null" for text in gathered.panel_codes], np.bool_)
        items.mark(nameless, Reason.NO_CODE, "Observation.code")
        items.of(column)
        return column.strings()


class _Refusals:
    """Collects why messages cannot be used; the first reason of a message counts."""

    def __init__(self, message: npt.NDArray[np.int32], rejects: dict[int, Reject]) -> None:
        self._message, self._rejects = message, rejects

    def mark(self, bad: npt.NDArray[np.bool_], reason: Reason, path: str) -> None:
        """Refuse the messages of the rows that are bad."""
        if bad.any():
            for i in self._message[bad].tolist():
                self._rejects.setdefault(i, Reject(i, reason, path))

    def of(self, column: Encoded[Any]) -> None:
        """Refuse the messages whose element was refused."""
        for value, refused in column.refused.items():
            self.mark(column.index == value, refused.reason, refused.path)


def _unbundle(
    resources: list[Observation | Bundle], message: list[int], rejects: dict[int, Reject]
) -> tuple[list[Observation], list[int]]:
    """Return all Observations, and of each the index of its message."""
    if Bundle not in set(map(type, resources)):
        return resources, message  # type: ignore[return-value]
    observations: list[Observation] = []
    owner: list[int] = []
    for i, resource in zip(message, resources, strict=True):
        if isinstance(resource, Observation):
            observations.append(resource)
            owner.append(i)
        elif resource.implicitRules is not None:
            rejects[i] = Reject(i, Reason.MODIFIED, "Bundle.implicitRules")
        elif not resource.entry:
            rejects[i] = Reject(i, Reason.NO_VALUE, "Bundle.entry")
        else:
            observations += [entry.resource for entry in resource.entry]
            owner += [i] * len(resource.entry)
    return observations, owner


def _times(gathered: Gathered, refusals: _Refusals) -> tuple[Times, Times]:
    effective = parse_times(gathered.moments)
    # Monitors write one time twice.
    issued = effective if gathered.issues == gathered.moments else parse_times(gathered.issues)
    refusals.mark(effective.absent, Reason.NO_TIME, "Observation.effective[x]")
    refusals.mark(effective.bad, Reason.BAD_TIME, "Observation.effective[x]")
    refusals.mark(issued.bad, Reason.BAD_TIME, "Observation.issued")
    return effective, issued


def _check_identities(identities: list[bytes | None], refusals: _Refusals) -> None:
    if b"\0" in b"".join(filter(None, identities)):
        bad = np.array([b"\0" in (identity or b"") for identity in identities], np.bool_)
        refusals.mark(bad, Reason.CONTROL_CHARACTER, "Observation.identifier")


def _versions(meta: Encoded[int]) -> npt.NDArray[np.int64]:
    known = np.array([*(v or 0 for v in meta.values), 0], np.int64)  # the last one serves the index -1
    return known[meta.index]


def _time_columns(effective: Times, issued: Times, item_of: npt.NDArray[np.int32]) -> dict[str, pa.Array]:
    kind = pa.timestamp("us", "UTC")
    unsaid = issued.absent[item_of]
    return {
        "effective_at": pa.array(effective.us[item_of]).cast(kind),
        "effective_offset_minutes": pa.array(effective.offset_minutes[item_of]),
        "issued_at": pa.array(issued.us[item_of], mask=unsaid if unsaid.any() else None).cast(kind),
    }


def _without_refused(
    columns: dict[str, pa.Array],
    identities: list[bytes | None],
    message: npt.NDArray[np.int32],
    rejects: dict[int, Reject],
) -> Decoded:
    for i in np.flatnonzero(np.bincount(message, minlength=1) > MOST_ROWS).tolist():
        rejects.setdefault(i, Reject(i, Reason.TOO_MANY_ROWS))
    batch = pa.RecordBatch.from_arrays([columns[f.name] for f in DECODED_SCHEMA], schema=DECODED_SCHEMA)
    if not rejects:
        return Decoded(batch, identities, message)
    good = ~np.isin(message, np.fromiter(rejects, np.int32, len(rejects)))
    kept = [identity for identity, ok in zip(identities, good.tolist(), strict=True) if ok]
    return Decoded(batch.filter(pa.array(good)), kept, message[good])
