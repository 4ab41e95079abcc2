"""FHIR R4 Observation and Bundle of Observations, by typed decoding; strict, every message on its own."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.decoding.elements import Measured, code_of, identity_of, quantity_of, reference_of, version_of
from pipelines.decoding.fhir_structs import STATUSES, Bundle, Identifier, Observation
from pipelines.decoding.paths import PreciseReasons, fhir_path, reason_of
from pipelines.decoding.raw import Encoded, RawElement, dictionary
from pipelines.decoding.reasons import Reason
from pipelines.decoding.result import DECODED_SCHEMA, Decoded, Reject
from pipelines.decoding.times import Times, parse_times
from pipelines.decoding.values import Items, flatten, value_columns

MOST_ROWS = 2_000
"""Rows a message may have: a chart's worth of panels; a megabyte of tiny components would be ten times that."""

_STATUS_INDEX = {status: i for i, status in enumerate(STATUSES)}


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
        self._subject = RawElement(reference_of("Patient"), "Observation.subject")
        self._encounter = RawElement(reference_of("Encounter"), "Observation.encounter")
        self._device = RawElement(reference_of("Device"), "Observation.device")
        self._quantity = RawElement(quantity_of, "Observation.valueQuantity")
        self._meta = RawElement(version_of, "Observation.meta")

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            tombstones = [i for i, value in enumerate(values) if value is None] if None in values else []
            resources, message = self._parse(values, rejects)
            observations, owner = _unbundle(resources, message, rejects)
            decoded = self._columns(observations, owner, rejects)
            decoded.tombstones.extend(tombstones)
            decoded.rejects.extend(self._explained(rejects, values))
            return decoded

    # -- parsing -------------------------------------------------------------------------------------------------

    def _parse(
        self, values: Sequence[bytes | None], rejects: dict[int, Reject]
    ) -> tuple[list[Observation | Bundle], npt.NDArray[np.int32]]:
        decode = self._decoder.decode
        longest = max(map(len, filter(None, values)), default=0)
        if None not in values and longest <= self._most_bytes:
            try:
                return [decode(v) for v in values], np.arange(len(values), dtype=np.int32)  # type: ignore[arg-type]
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass  # one of them is bad: take them one by one
        parsed: list[Observation | Bundle] = []
        message: list[int] = []
        for i, value in enumerate(values):
            if value is None:
                continue
            if len(value) > self._most_bytes:
                rejects[i] = Reject(i, Reason.TOO_LARGE)
                continue
            try:
                parsed.append(decode(value))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                rejects[i] = Reject(i, reason_of(error), fhir_path(str(error)))
            else:
                message.append(i)
        return parsed, np.array(message, np.int32)

    def _explained(self, rejects: dict[int, Reject], values: Sequence[bytes | None]) -> list[Reject]:
        ordered = [rejects[i] for i in sorted(rejects)]
        return self._precise.explain(ordered, values) if self._precise else ordered

    # -- columns -------------------------------------------------------------------------------------------------

    def _columns(
        self, observations: list[Observation], owner: npt.NDArray[np.int32], rejects: dict[int, Reject]
    ) -> Decoded:
        """Make columns of the observations, leave out every message one of whose parts was refused."""
        refusals = _Refusals(owner, rejects)
        subject = self._subject.encode([o.subject for o in observations])
        refusals.absent(subject.index, Reason.NO_SUBJECT, "Observation.subject")
        encounter = self._encounter.encode([o.encounter for o in observations])
        device = self._device.encode([o.device for o in observations])
        meta = self._meta.encode([o.meta for o in observations])
        for column in (subject, encounter, device, meta):
            refusals.of(column)
        moments = [o.effectiveDateTime or o.effectiveInstant for o in observations]
        effective = parse_times(moments)
        refusals.mark(effective.absent, Reason.NO_TIME, "Observation.effective[x]")
        refusals.mark(effective.bad, Reason.BAD_TIME, "Observation.effective[x]")
        issues = [o.issued for o in observations]
        issued = effective if issues == moments else parse_times(issues)  # monitors write one time twice
        refusals.mark(issued.bad, Reason.BAD_TIME, "Observation.issued")
        identities = _identities(observations, refusals)
        if b"".join([o.modifierExtension for o in observations]) or any([o.implicitRules for o in observations]):
            modified = np.array([bool(bytes(o.modifierExtension) or o.implicitRules) for o in observations], np.bool_)
            refusals.mark(modified, Reason.MODIFIED, "Observation.modifierExtension")
        items = flatten(observations)
        codes = self._code.encode([item.code for item in items.items])
        refusals.absent(codes.index, Reason.NO_CODE, "Observation.code", items.owner)
        refusals.of(codes, items.owner)
        panels = self._panels(observations, items, refusals)
        quantities = self._quantity.encode([item.valueQuantity for item in items.items])
        refusals.of(quantities, items.owner)
        values = value_columns(items, quantities, refusals.mark)
        statuses = np.array(list(map(_STATUS_INDEX.__getitem__, [o.status for o in observations])), np.int32)
        columns = {
            "version": _versions(meta)[items.owner],
            "patient_id": dictionary(subject.index[items.owner], subject.values),
            "encounter_id": dictionary(encounter.index[items.owner], encounter.values),
            "device_id": dictionary(device.index[items.owner], device.values),
            "code": codes.strings(),
            "panel_code": panels,
            "status": dictionary(statuses[items.owner], STATUSES),
            **_time_columns(effective, issued, items.owner),
            **values,
        }
        return _without_refused(columns, identities, items, owner, rejects)

    def _panels(self, observations: list[Observation], items: Items, refusals: _Refusals) -> pa.DictionaryArray:
        if not items.panels.any():
            return dictionary(np.full(len(items.items), -1, np.int32), [])
        column = self._code.encode([o.code for o in observations])
        own = np.zeros(len(observations), np.bool_)
        own[items.owner[items.panels]] = True
        bad = np.isin(column.index, [-1, *column.refused])
        refusals.mark(own & bad, Reason.NO_CODE, "Observation.code")
        return dictionary(np.where(items.panels, column.index[items.owner], -1).astype(np.int32), column.values)


class _Refusals:
    """Collects why messages cannot be used; the first reason of a message counts."""

    def __init__(self, owner: npt.NDArray[np.int32], rejects: dict[int, Reject]) -> None:
        self._owner, self._rejects = owner, rejects

    def mark(
        self, bad: npt.NDArray[np.bool_], reason: Reason, path: str, of: npt.NDArray[np.int32] | None = None
    ) -> None:
        """Refuse the messages of the observations (or, with ``of``, of the items) that are bad."""
        if bad.any():
            where = np.flatnonzero(bad)
            for i in self._owner[where if of is None else of[where]].tolist():
                self._rejects.setdefault(i, Reject(i, reason, path))

    def absent(
        self, index: npt.NDArray[np.int32], reason: Reason, path: str, of: npt.NDArray[np.int32] | None = None
    ) -> None:
        """Refuse the messages that lack an element."""
        self.mark(index < 0, reason, path, of)

    def of(
        self, column: Encoded[str] | Encoded[int] | Encoded[Measured], of: npt.NDArray[np.int32] | None = None
    ) -> None:
        """Refuse the messages whose element was refused."""
        for value, refused in column.refused.items():
            self.mark(column.index == value, refused.reason, refused.path, of)


def _unbundle(
    resources: list[Observation | Bundle], message: npt.NDArray[np.int32], rejects: dict[int, Reject]
) -> tuple[list[Observation], npt.NDArray[np.int32]]:
    """Return all Observations, and of each the index of its message."""
    if Bundle not in set(map(type, resources)):
        return resources, message  # type: ignore[return-value]
    observations: list[Observation] = []
    owner: list[int] = []
    for i, resource in zip(message.tolist(), resources, strict=True):
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
    return observations, np.array(owner, np.int32)


def _identities(observations: list[Observation], refusals: _Refusals) -> list[bytes | None]:
    identifiers = [o.identifier for o in observations]
    usual = _usual_identities(identifiers)
    if usual is not None:
        return usual
    identities = [identity_of(several) for several in identifiers]
    if b"\0" in b"".join([i for i in identities if i]):
        bad = np.array([bool(i) and b"\0" in i for i in identities], np.bool_)  # type: ignore[operator]
        refusals.mark(bad, Reason.CONTROL_CHARACTER, "Observation.identifier")
    return identities


def _usual_identities(identifiers: list[list[Identifier]]) -> list[bytes | None] | None:
    """Return the same as identity_of for each, at a fifth of the cost, where all have one identifier of one system."""
    if set(map(len, identifiers)) != {1}:
        return None
    firsts = [several[0] for several in identifiers]
    values = [first.value for first in firsts]
    systems = {first.system for first in firsts}
    if len(systems) != 1 or None in values:
        return None
    texts = "\0".join(values).encode().split(b"\0")  # type: ignore[arg-type]
    if len(texts) != len(values):  # one of them holds U+0000
        return None
    system = systems.pop() or ""
    prefix = f"{len(system)}|{system}|".encode()
    return [prefix + text for text in texts] if "\0" not in system else None


def _versions(meta: Encoded[int]) -> npt.NDArray[np.int64]:
    known = np.array([*(v or 0 for v in meta.values), 0], np.int64)  # the last one serves the index -1
    return known[meta.index]


def _time_columns(effective: Times, issued: Times, owner: npt.NDArray[np.int32]) -> dict[str, pa.Array]:
    kind = pa.timestamp("us", "UTC")
    unsaid = issued.absent[owner]
    return {
        "effective_at": pa.array(effective.us[owner]).cast(kind),
        "effective_offset_minutes": pa.array(effective.offset_minutes[owner]),
        "issued_at": pa.array(issued.us[owner], mask=unsaid if unsaid.any() else None).cast(kind),
    }


def _without_refused(
    columns: dict[str, object],
    identities: list[bytes | None],
    items: Items,
    owner: npt.NDArray[np.int32],
    rejects: dict[int, Reject],
) -> Decoded:
    message = owner[items.owner].astype(np.int32)
    counts = np.bincount(message, minlength=1)
    for i in np.flatnonzero(counts > MOST_ROWS).tolist():
        rejects.setdefault(i, Reject(i, Reason.TOO_MANY_ROWS))
    batch = pa.RecordBatch.from_arrays(
        [pa.array(columns[f.name], f.type) if isinstance(columns[f.name], np.ndarray) else columns[f.name]
         for f in DECODED_SCHEMA], schema=DECODED_SCHEMA,
    )  # fmt: skip
    by_item = identities if items.plain else [identities[i] for i in items.owner.tolist()]
    if not rejects:
        return Decoded(batch, by_item, message)
    good = ~np.isin(message, np.fromiter(rejects, np.int32, len(rejects)))
    kept = [identity for identity, ok in zip(by_item, good.tolist(), strict=True) if ok]
    return Decoded(batch.filter(pa.array(good)), kept, message[good])
