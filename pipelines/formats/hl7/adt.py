"""Decodes HL7 v2 ADT messages to rows of ``device_association``: which patient lies in which bed.

A bed stands for the devices at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.formats.hl7.fields import FieldReader
from pipelines.formats.hl7.header import Header, header_of
from pipelines.formats.hl7.people import details_of
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.hl7.text import Segment, messages_of
from pipelines.formats.hl7.times import Moment, in_order, instant, read_time
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.parsing import collector_paused, decode_each, readable
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.records import BORN_IN, DIED_TOLD, GOES_ON, MERGED, OVER_TOLD, SEX_TOLD, decoded_records
from pipelines.formats.shared.result import Decoded, Reject

Row = dict[str, Any]

_REFUSED = "refused"
"""Key of a row whose message the lake does not take; its value is the reason."""

_OTHERS = frozenset({"ORU"})
"""Message types on the same feed that say nothing about beds."""

_NO_CLASS = frozenset({"", "N", "U", "B"})
"""Values of PV1-2 (HL7 table 0004) of both inpatients and outpatients: none, not applicable, unknown, obstetrics."""

_OF_OUTPATIENTS_TOO = ("A04", "A08")
"""Events that are also sent for outpatients; an unclear PV1-2 then does not count as an inpatient."""

_MERGES = ("A18", "A30", "A34", "A36", "A39", "A40")
"""Events that replace a patient number (MRG-1) by another (PID-3); A40 is the one in use today.

A46 and A47 are left out: they correct a mistyped number, which can then be given to another patient.
"""


@dataclass(slots=True)
class _Visit:
    """A patient and their place, from PID, PV1 and MRG; a place can be a ward or a room without a bed."""

    patient: str
    visit: str | None = None
    bed: str | None = None
    place: str | None = None
    prior_place: str | None = None
    pv1: Segment | None = None
    merged: str | None = None
    born: str | None = None
    sex: str | None = None
    died: str | None = None


@dataclass(slots=True)
class _Event:
    """An ADT message.

    Attributes:
        header: MSH.
        evn: EVN, if there is one.
        version: time of recording in microseconds: EVN-2, made finer by MSH-7 if that is more precise.
        visits: the patients of the message.
    """

    header: Header
    evn: Segment | None
    version: int = 0
    visits: list[_Visit] = field(default_factory=list)


class AdtDecoder:
    """Decodes ADT messages to associations of beds and patients.

    Each message is decoded without looking at others. An admission (A01, A04) or transfer (A02, A17) begins an
    association; a discharge (A03) or transfer reports that the patient has left a bed. A cancellation (A11, A12, A13)
    makes an earlier row ``entered-in-error``. A merge (A40 and its like) reports whose the old number now is. All
    other events say nothing about beds.
    """

    def __init__(self, profile: Hl7Profile, *, max_message_bytes: int = 1_048_576) -> None:
        """Make a decoder; not to be shared between threads.

        Args:
            profile: settles what the messages leave open.
            max_message_bytes: longer messages are rejected unread.
        """
        self.name, self.version = f"hl7-v2-adt:{profile.name}", f"2-{profile.digest}"
        self._profile, self._most_bytes = profile, max_message_bytes
        self._names = FieldReader(profile)
        self._makers = {
            "A01": self._admitted, "A04": self._registered, "A02": self._moved, "A17": self._moved, "A03": self._left,
            "A08": self._updated, "A11": self._not_admitted, "A12": self._not_moved, "A13": self._not_left,
            **dict.fromkeys(_MERGES, self._merged),
        }  # fmt: skip

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            chosen = readable(values, list(range(len(values))), rejects, most_bytes=self._most_bytes)
            rows, message, empty = decode_each(((i, values[i] or b"") for i in chosen), self._rows_of, rejects)
            online_only = _online_only_rows(rows, message, rejects)
            identities = [row.pop("identity") for row in rows]
            decoded = replace(
                decoded_records("device_association", rows, identities, message, rejects), online_only=online_only
            )
            decoded.tombstones.extend(i for i, value in enumerate(values) if value is None)
            decoded.empty.extend(empty)
            return decoded

    def _rows_of(self, payload: bytes) -> Iterator[Row]:
        for message in messages_of(payload):
            header = header_of(message[0], self._profile)
            if header.kind == "ADT":
                make = self._makers.get(header.event)
                event = self._event(header, message) if make else None
                for visit in event.visits if event else ():
                    assert make is not None and event is not None
                    yield from make(event, visit)
            elif header.kind not in _OTHERS:
                raise Refused(Reason.WRONG_RESOURCE, "MSH-9")

    # -- reading a message ---------------------------------------------------------------------------------------

    def _event(self, header: Header, message: list[Segment]) -> _Event:
        evn = next((segment for segment in message if segment.name == "EVN"), None)
        event = _Event(header, evn, self._recorded(header, evn.first(2) if evn else ""))
        for segment in message:
            dialect = segment.dialect
            if segment.name == "PID":
                patient = self._names.patient(segment.raw(3), dialect)
                if patient is None:
                    raise Refused(Reason.NO_SUBJECT, "PID-3")
                event.visits.append(_Visit(patient, **details_of(segment)._asdict()))
            elif segment.name == "PV1" and event.visits:
                last = event.visits[-1]
                last.pv1 = segment
                last.visit = self._names.visit(segment.raw(19), dialect)
                last.bed = self._names.bed(segment.raw(3), dialect)
                last.place, last.prior_place = (self._place(header, last, segment, number) for number in (3, 6))
            elif segment.name == "MRG" and event.visits:
                event.visits[-1].merged = self._names.patient(segment.raw(1), dialect)
        if not event.visits:
            raise Refused(Reason.NO_SUBJECT, "PID")
        return event

    def _place(self, header: Header, visit: _Visit, pv1: Segment, number: int) -> str | None:
        """Return the bed of a field; for an inpatient also a ward or a room without a bed.

        An outpatient visit to a ward is not taken: nobody reports its end. A discharge of a stay with a number is taken
        from any place.
        """
        place = self._names.place(pv1.raw(number), pv1.dialect)
        patient_class = pv1.first(2)
        unclear = patient_class in _NO_CLASS
        stays = patient_class in self._profile.stays or (unclear and header.event not in _OF_OUTPATIENTS_TOO)
        ends = visit.visit is not None and header.event in ("A03", "A13")
        return place if stays or ends else self._names.bed(pv1.raw(number), pv1.dialect)

    def _recorded(self, header: Header, text: str) -> int:
        """Return the version of a message: EVN-2; within the same minute or second of EVN-2, MSH-7 decides."""
        sent = header.order_us or 0
        if not text:
            return sent
        written = read_time(text)
        begin = in_order(written, self._profile.clock, offset_minutes=header.offset_minutes)
        return min(max(begin, sent), begin + written.span_us - 1)

    def _when(self, event: _Event, *places: tuple[Segment | None, int, str]) -> Moment:
        """Return the first of several times that is given."""
        for segment, number, name in places:
            text = segment.first(number) if segment is not None else ""
            if text:
                try:
                    return instant(
                        read_time(text), offset_minutes=event.header.offset_minutes, clock=self._profile.clock
                    )
                except Refused as refused:
                    raise Refused(refused.reason, name) from None
        raise Refused(Reason.NO_TIME, places[0][2])

    def _admitted_at(self, event: _Event, visit: _Visit) -> Moment:
        return self._when(event, (visit.pv1, 44, "PV1-44"), (event.evn, 6, "EVN-6"), (event.evn, 2, "EVN-2"))

    def _moved_at(self, event: _Event) -> Moment:
        return self._when(event, (event.evn, 6, "EVN-6"), (event.evn, 2, "EVN-2"))

    def _left_at(self, event: _Event, visit: _Visit) -> Moment:
        return self._when(event, (visit.pv1, 45, "PV1-45"), (event.evn, 6, "EVN-6"), (event.evn, 2, "EVN-2"))

    def _row(
        self, event: _Event, visit: _Visit, bed: str, since: Moment, *, status: str = "active", mistake: bool = False
    ) -> Row:
        """Return a row for a bed. Its identity includes its time; a cancellation has the same identity."""
        stay = visit.visit or visit.patient
        identity = f"hl7-v2|{status}|{len(stay)}|{stay}|{len(bed)}|{bed}|{since.us}"
        return {
            "identity": identity.encode(),
            "version": event.version,
            "device_id": bed,
            "patient_id": visit.patient,
            "encounter_id": visit.visit,
            "valid_from": since.us,
            "status": "entered-in-error" if mistake else status,
            "available_at": event.header.sent.us if event.header.sent else None,
            BORN_IN: visit.born,
            SEX_TOLD: visit.sex,
            DIED_TOLD: visit.died,
        }

    def _admission(self, event: _Event, visit: _Visit, bed: str, since: Moment, *, mistake: bool = False) -> Row:
        """Return the row of a stay's admission to a bed; a repeated report replaces the earlier one.

        Without a stay number the identity includes the time, because the patient can be admitted to the bed again.
        """
        row = self._row(event, visit, bed, since, mistake=mistake)
        if visit.visit is not None:
            row["identity"] = f"hl7-v2|admission|{len(visit.visit)}|{visit.visit}|{len(bed)}|{bed}".encode()
        return row

    def _discharge(self, event: _Event, visit: _Visit, place: str, at: Moment, *, mistake: bool = False) -> Row:
        """Return the row of a discharge; of a stay with a number, the identity is that number and the time.

        The place is no part of it: a cancelled discharge (A13) names the place where the patient is put, which can
        differ from the place of the discharge.
        """
        row = self._row(event, visit, place, at, status="ended", mistake=mistake)
        if visit.visit is not None:
            row["identity"] = f"hl7-v2|discharge|{len(visit.visit)}|{visit.visit}|{at.us}".encode()
        return row

    # -- events --------------------------------------------------------------------------------------------------

    def _admitted(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        if visit.place is not None:
            yield self._admission(event, visit, visit.place, self._admitted_at(event, visit))

    def _registered(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        """Yield the row of an outpatient; its identity includes the time, for a series of treatments is one stay."""
        if visit.place is not None:
            yield self._row(event, visit, visit.place, self._admitted_at(event, visit))

    def _moved(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        """Yield the end at the old place and the beginning at the new one.

        If the old place is missing, the lake refuses the message: the old bed's devices would go on measuring for the
        patient. If the stay has a number, the ward gets the new place nevertheless.
        """
        if visit.visit is not None and visit.place is not None and visit.pv1 is not None and not visit.pv1.raw(6):
            refused = Refused(Reason.WRONG_SHAPE, "PV1-6")
            yield self._row(event, visit, visit.place, self._moved_at(event)) | {_REFUSED: refused}
            return
        _require_place(visit, 6)
        if visit.place == visit.prior_place:
            return
        at = self._moved_at(event)
        if visit.prior_place is not None:
            yield self._row(event, visit, visit.prior_place, at, status="ended")
        if visit.place is not None:
            yield self._row(event, visit, visit.place, at)

    def _left(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        _require_place(visit, 3)
        if visit.place is not None:
            yield self._discharge(event, visit, visit.place, self._left_at(event, visit)) | {OVER_TOLD: "yes"}

    def _updated(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        """Yield the admission again if the patient has neither been moved nor discharged; otherwise nothing."""
        pv1 = visit.pv1
        if self._profile.updates == "ignore" or pv1 is None or visit.place is None:
            return
        if pv1.first(44) and not pv1.first(45) and not pv1.raw(6):
            yield self._admission(event, visit, visit.place, self._admitted_at(event, visit))

    def _not_admitted(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        """Yield the cancellation of an admission, both as an inpatient's and as an outpatient's row."""
        _require_place(visit, 3)
        if visit.place is not None:
            at = self._when(event, (visit.pv1, 44, "PV1-44"), (event.evn, 6, "EVN-6"))
            yield self._row(event, visit, visit.place, at, mistake=True)
            if visit.visit is not None:
                yield self._admission(event, visit, visit.place, at, mistake=True)

    def _not_moved(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        """Yield the cancellation of a transfer: PV1-3 is the place before the transfer, PV1-6 the one after it."""
        if visit.place is None or visit.prior_place is None:
            raise Refused(Reason.WRONG_SHAPE, "PV1-3" if visit.place is None else "PV1-6")
        at = self._when(event, (event.evn, 6, "EVN-6"))
        yield self._row(event, visit, visit.place, at, status="ended", mistake=True)
        yield self._row(event, visit, visit.prior_place, at, mistake=True)

    def _not_left(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        """Yield the cancellation of a discharge; if its time is missing, the patient is in the bed from now on.

        In that case a discharge at the same time is cancelled as well: it would end the association that begins there.
        The online store learns that the stay of that number goes on, in whatever bed: its discharge can have another
        time.
        """
        _require_place(visit, 3)
        if (place := visit.place) is None:
            return
        pv1, evn = visit.pv1, event.evn
        timed = bool((pv1 and pv1.first(45)) or (evn and evn.first(6)))
        at = self._left_at(event, visit) if timed else self._moved_at(event)
        cancelled = self._discharge(event, visit, place, at, mistake=True)
        yield cancelled if visit.visit is None else cancelled | {OVER_TOLD: GOES_ON}
        if visit.visit is not None:  # earlier releases put the place into a discharge's identity
            yield self._row(event, visit, place, at, status="ended", mistake=True)
        if not timed and visit.bed is not None:
            yield self._row(event, visit, visit.bed, at)

    def _merged(self, event: _Event, visit: _Visit) -> Iterator[Row]:
        if visit.merged is None:
            raise Refused(Reason.WRONG_SHAPE, "MRG-1")
        if visit.merged == visit.patient:
            return
        old = visit.merged
        yield {
            "identity": f"hl7-v2|merged|{old}".encode(),
            "version": event.version,
            "device_id": f"{MERGED}{old}",
            "patient_id": visit.patient,
            "valid_from": self._moved_at(event).us,
            "status": "active",
            "available_at": event.header.sent.us if event.header.sent else None,
            BORN_IN: visit.born,
            SEX_TOLD: visit.sex,
            DIED_TOLD: visit.died,
        }


def _online_only_rows(rows: Sequence[Row], message: Sequence[int], rejects: dict[int, Reject]) -> list[tuple[int, Row]]:
    """Return the rows that only the ward can use, and refuse their messages for the lake."""
    chosen = [(i, row) for i, row in zip(message, rows, strict=True) if _REFUSED in row]
    for i, row in chosen:
        refused = row.pop(_REFUSED)
        rejects.setdefault(i, Reject(i, refused.reason, refused.path))
    return [(i, dict(row)) for i, row in chosen]


def _require_place(visit: _Visit, number: int) -> None:
    """Raise Refused if PV1 does not give a place, in PV1-3 or PV1-6."""
    if visit.pv1 is None or not visit.pv1.raw(number):
        raise Refused(Reason.WRONG_SHAPE, f"PV1-{number}")
