"""Reads the results of an ORU^R01: its patients, orders and OBX segments in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipelines.formats.hl7.fields import CachedReader, FieldReader
from pipelines.formats.hl7.header import Header
from pipelines.formats.hl7.people import details_of
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.hl7.text import Dialect, Segment
from pipelines.formats.hl7.times import Moment, in_order, instant, read_time
from pipelines.formats.hl7.values import STATUSES, WITHOUT_VALUE, ObxValue, value_of
from pipelines.formats.shared.encoded import REMEMBERED, Refused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.refusals import MOST_ROWS
from pipelines.online_store.facts import Person
from vitalake.vocabulary import load_vocabulary

_ORDER_STATUSES = frozenset("FCPRXIO")
"""Statuses of OBR-25 with the same meaning as in OBX-11."""


class Result(NamedTuple):
    """One row with the columns of DECODED_SCHEMA, and its identity; times in microseconds since 1970."""

    identity: bytes | None
    version: int
    patient_id: str | None
    encounter_id: str | None
    device_id: str | None
    code: str
    value: float | None
    comparator: str | None
    unit: str | None
    value_code: str | None
    value_text: str | None
    data_absent_reason: str | None
    status: str
    effective_at: int
    effective_offset_minutes: int
    issued_at: int | None


@dataclass(slots=True)
class _Context:
    """What the segments before a result say: patient, stay, bed, order and device."""

    header: Header
    patient: str | None = None
    visit: str | None = None
    bed: str | None = None
    order: Segment | None = None
    order_device: str | None = None
    device: str | None = None


class ResultReader:
    """Reads the results of messages, one after the other."""

    def __init__(self, profile: Hl7Profile) -> None:
        """Make a reader; not to be shared between threads."""
        self._profile, self._loinc_of = profile, load_vocabulary().loinc_of
        self._names = names = FieldReader(profile)
        self._patient, self._visit = CachedReader(names.patient), CachedReader(names.visit)
        self._entity, self._bed = CachedReader(names.device), CachedReader(names.bed)
        self._code, self._unit = CachedReader(names.code), CachedReader(names.unit)
        self._coding = CachedReader(_first_coding)
        self._moments: dict[tuple[str, int | None], Moment] = {}
        self.people: list[tuple[str, int, Person]] = []
        """Facts about patients in the messages read so far: patient, version, facts."""

    def results(self, header: Header, message: list[Segment]) -> list[Result]:
        """Return the rows of a message.

        Raises:
            Refused: one of its results cannot be used, or there are none.
        """
        context = _Context(header)
        found: list[Result] = []
        number = 0
        for segment, participant in _with_participants(message):
            if segment.name != "OBX":
                self._update(segment, context)
                continue
            number += 1
            if number > MOST_ROWS:
                raise Refused(Reason.TOO_MANY_ROWS)
            row = self._result(segment, participant, context, f"OBX[{number}]")
            if row is not None:
                found.append(row)
        if number == 0:
            raise Refused(Reason.NO_VALUE, "OBX")
        if len({row.identity for row in found if row.identity}) < sum(row.identity is not None for row in found):
            raise Refused(Reason.WRONG_SHAPE, "OBX-4")  # two results with one identity: one would hide the other
        return found

    def _update(self, segment: Segment, context: _Context) -> None:
        dialect = segment.dialect
        if segment.name == "PID":
            context.patient = self._patient(segment.raw(3), dialect)
            context.visit = context.bed = context.order = context.order_device = context.device = None
            if context.patient is not None and any(details := details_of(segment)):
                person = Person(details.sex or "unknown", details.born or "", died=details.died or "")
                self.people.append((context.patient, context.header.order_us or 0, person))
        elif segment.name == "PV1":
            context.visit, context.bed = self._visit(segment.raw(19), dialect), self._bed(segment.raw(3), dialect)
        elif segment.name == "OBR":
            context.order, context.order_device, context.device = segment, None, None
        elif segment.name == "PRT":
            context.order_device = self._entity(segment.raw(10), dialect)

    def _result(self, obx: Segment, participant: Segment | None, context: _Context, where: str) -> Result | None:
        """Return the row of an OBX; None if it only names a device, or if the profile ignores its code."""
        dialect, field = obx.dialect, 18
        try:
            device = self._entity(obx.raw(18), dialect)
            if device is None and participant is not None:
                device = self._entity(participant.raw(10), dialect)
            kind, text, field = obx.raw(2), obx.raw(5), 3
            code = self._code(obx.raw(3), dialect)
            if not kind and not text and (code is None or "|" in self._loinc_of(code)):
                context.device = device or context.device
                return None
            if code is None:
                return None
            field = 11
            status, rank, without = self._status(obx, context)
            field = 5
            value = without or self._value(kind, text, dialect)
            field = 6
            unit = None if value.number is None and value.words is None else self._unit(obx.raw(6), dialect)
            field = 14
            effective = self._effective(obx, context)
            field = 4
            identity = self._identity(obx, context, effective)
        except Refused as refused:
            raise Refused(refused.reason, refused.path or f"{where}-{field}") from None
        device = device or context.device or context.order_device
        if context.patient is None:
            device = self._unassigned(device, context.bed)
        return Result(
            identity=identity,
            version=self._version(context, rank),
            patient_id=context.patient,
            encounter_id=context.visit,
            device_id=device,
            code=code,
            value=value.number,
            comparator=value.comparator,
            unit=unit,
            value_code=value.code,
            value_text=value.words,
            data_absent_reason=value.absent,
            status=status,
            effective_at=effective.us,
            effective_offset_minutes=effective.offset_minutes,
            issued_at=context.header.sent.us if context.header.sent else None,
        )

    def _status(self, obx: Segment, context: _Context) -> tuple[str, int, ObxValue | None]:
        letter = obx.first(11)
        if not letter and context.order is not None and context.order.first(25) in _ORDER_STATUSES:
            letter = context.order.first(25)
        if not letter:
            return "unknown", 0, None
        if letter not in STATUSES:
            raise Refused(Reason.BAD_STATUS)
        return *STATUSES[letter], WITHOUT_VALUE.get(letter)

    def _value(self, kind: str, text: str, dialect: Dialect) -> ObxValue:
        if not text:
            raise Refused(Reason.NO_VALUE)
        return value_of(kind, text, dialect, self._names)

    def _effective(self, obx: Segment, context: _Context) -> Moment:
        text = obx.first(14)
        if not text and context.order is not None:
            text = context.order.first(7)
        if not text:
            raise Refused(Reason.NO_TIME)
        key = (text, context.header.offset_minutes)
        found = self._moments.get(key)
        if found is None:
            if len(self._moments) >= REMEMBERED:
                self._moments.clear()
            found = instant(read_time(text), offset_minutes=key[1], clock=self._profile.clock)
            self._moments[key] = found
        return found

    def _identity(self, obx: Segment, context: _Context, effective: Moment) -> bytes | None:
        """Return the identity of a result: filler number, code as sent, sub-identifier.

        A number without an assigning authority is qualified by the sender. None: the order has no number.
        """
        if context.order is None:
            return None
        filler = self._entity(context.order.raw(3), obx.dialect)
        if filler is None:
            placer = self._entity(context.order.raw(2), obx.dialect)
            if placer is None:
                return None
            filler = f"placer|{placer}"
        if "|" not in filler or filler.startswith("placer|"):
            filler = f"{context.header.sender}|{filler}"
        code, sub = self._coding(obx.raw(3), obx.dialect), obx.first(4)
        session = f"|{effective.us}" if self._profile.identity == "time" else ""
        return f"13|hl7-v2:filler|{len(filler)}|{filler}|{len(code)}|{code}|{sub}{session}".encode()

    def _version(self, context: _Context, rank: int) -> int:
        """Return the version: time of sending plus rank of the status, so that a correction sent at once is newer."""
        order = context.header.order_us
        if order is None and context.order is not None and context.order.first(22):
            try:
                order = in_order(read_time(context.order.first(22)), self._profile.clock)
            except Refused as refused:
                raise Refused(refused.reason, "OBR-22") from None
        return (order or 0) + rank

    def _unassigned(self, device: str | None, bed: str | None) -> str:
        """Return the device or bed of a result without a patient."""
        first, second = (bed, device) if self._profile.unassigned == "bed" else (device, bed)
        found = first or second
        if found is None:
            raise Refused(Reason.NO_SUBJECT, "PID-3")
        return found


def _first_coding(text: str, dialect: Dialect) -> str:
    parts = dialect.parts(text, dialect.separators.component)
    return f"{(*parts, '', '')[2]}|{parts[0]}"


def _with_participants(message: list[Segment]) -> list[tuple[Segment, Segment | None]]:
    """Return the segments that are read, each OBX with the PRT that names its device."""
    found: list[tuple[Segment, Segment | None]] = []
    for segment in message:
        if segment.name == "PRT":
            if found and found[-1][0].name == "OBX":
                if found[-1][1] is None and segment.raw(10):
                    found[-1] = (found[-1][0], segment)
            elif segment.raw(10):
                found.append((segment, None))
        elif segment.name in ("PID", "PV1", "OBR", "OBX"):
            found.append((segment, None))
    return found
