"""Reads from Encounter.location where a patient lies: ward, room and bed, each a Location of its type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Raw

from pipelines.formats.fhir.elements import checked
from pipelines.formats.fhir.record_structs import Period, ShownConcept, TypedIdentifier
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.reasons import Reason
from pipelines.online_store.placing import NOWHERE, bed_name
from vitalake import clock

KINDS = ("wa", "ro", "bd")
"""Ward, room and bed in HL7's code system location-physical-type; buildings and sites are not used."""


_FIRST = datetime.min.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = len("2026-01-31")


class _Where(msgspec.Struct, gc=False):
    reference: str | None = None
    display: str | None = None
    identifier: TypedIdentifier | None = None


class _Location(msgspec.Struct, gc=False):
    """An entry of Encounter.location; ``form`` is R5's name for ``physicalType``."""

    modifierExtension: Raw = Raw(b"")
    location: _Where | None = None
    status: str | None = None
    physicalType: ShownConcept | None = None
    form: ShownConcept | None = None
    period: Period | None = None


LEFT = "0 "
"""Value of a place: the patient has left all beds and wards that the stay names."""

_LOCATIONS = msgspec.json.Decoder(list[_Location])


AND_THEN = "\0"
"""Separates the places of a stay, the current one first; no name can contain it."""

_MOST_AHEAD = timedelta(hours=2)
"""An active place that begins at most this far ahead counts as current, for clocks can be off by a time zone."""


def place_of(raw: Raw, admitted: datetime | None) -> str | None:
    """Return the patient's place as ``<microseconds since when> bed:<ward>/<room>/<bed>``; None: it is not known.

    LEFT if the patient has left a bed or a ward, and the stay names no current one; a room, or a place without a type,
    does not count. Places that begin in the future follow, each behind AND_THEN; one without a bed means that the
    patient will have left.

    A location that cannot be read is ignored: the stay is not refused for it.

    Args:
        raw: Encounter.location.
        admitted: the beginning, if the location has none.

    Raises:
        Refused: a location has a modifierExtension.
    """
    text = bytes(raw)
    if not text or text == b"null":
        return None
    try:
        entries, now = _LOCATIONS.decode(text), clock.now()
    except (msgspec.MsgspecError, ValueError):
        return None
    if any(bytes(entry.modifierExtension) for entry in entries):
        raise Refused(Reason.MODIFIED, "Encounter.location.modifierExtension")
    try:
        early = _begun_by_their_clock(entries, now)
        place = _place_at(entries, now, admitted, early)
        ahead = {
            at for one in entries if one not in early and (at := _begun(one)) and at > now and _can_be_a_place(one)
        }
        then = [_then(entries, at) for at in sorted(ahead)]
    except (msgspec.MsgspecError, ValueError, Refused):
        return None
    if then and place in (None, LEFT):
        place = f"{_microseconds(admitted or _EPOCH)} {NOWHERE}"
    return place if place is None else AND_THEN.join([place, *then])


def _place_at(entries: list[_Location], now: datetime, admitted: datetime | None, early: list[_Location]) -> str | None:
    current = [entry for entry in entries if _is_current(entry, now) or entry in early]
    names, since = dict.fromkeys(KINDS, ""), admitted
    for entry in sorted(current, key=lambda one: _begun(one) or _FIRST):
        kind, name, begun = _kind(entry), _name(entry), _begun(entry)
        if kind and name:
            names[kind] = checked(name)
            since = begun if begun and (since is None or begun > since) else since
    wards_and_beds = [entry for entry in entries if _kind(entry) in ("wa", "bd")]
    if any(_is_over(entry, now) for entry in wards_and_beds) and not any(entry in current for entry in wards_and_beds):
        return LEFT
    if since is None or not (names["bd"] or names["wa"]):
        return None
    return f"{_microseconds(since)} {bed_name(*names.values())}"


def _then(entries: list[_Location], at: datetime) -> str:
    """Return the patient's place from a future moment on, at which a place begins."""
    place = _place_at(entries, at, at, [])
    return f"{_microseconds(at)} {place.partition(' ')[2] if place else ''}"


def _begun_by_their_clock(entries: list[_Location], now: datetime) -> list[_Location]:
    """Return the active bed and ward that begin slightly ahead, if no other is current: the sender's clock is ahead."""
    found, current_kinds = list[_Location](), {_kind(entry) for entry in entries if _is_current(entry, now)}
    for kind, others in (("bd", {"bd"}), ("wa", {"wa", "bd"})):
        begins = [
            (at, i)
            for i, one in enumerate(entries)
            if _kind(one) == kind and one.status == "active" and (at := _begun(one))
        ]
        if current_kinds.isdisjoint(others):
            found += [entries[i] for at, i in sorted(begins)[:1] if now < at <= now + _MOST_AHEAD]
    return found


def _can_be_a_place(entry: _Location) -> bool:
    return _kind(entry) is not None and entry.status in (None, "active")


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)


def _kind(entry: _Location) -> str | None:
    concept = entry.physicalType or entry.form
    return next((coding.code for coding in concept.coding if coding.code in KINDS), None) if concept else None


def _name(entry: _Location) -> str | None:
    where = entry.location or _Where()
    named = where.display or (where.identifier.value if where.identifier else None)
    return named or ((where.reference or "").rpartition("/")[2] or None)


def _is_current(entry: _Location, now: datetime) -> bool:
    """Return whether the patient is there now: an entry can be sent before it begins, and with its planned end."""
    begun, ended = _begun(entry), _moment(entry.period.end) if entry.period else None
    if entry.period and entry.period.end and len(entry.period.end) == _DAY:
        ended = ended + timedelta(days=1) if ended else None
    return entry.status in (None, "active") and (begun is None or begun <= now) and (ended is None or ended > now)


def _is_over(entry: _Location, now: datetime) -> bool:
    """Return whether the patient has left this place."""
    if entry.status == "completed":
        return True
    return (
        entry.status in (None, "active")
        and not _is_current(entry, now)
        and not ((begun := _begun(entry)) and begun > now)
    )


def _begun(entry: _Location) -> datetime | None:
    return _moment(entry.period.start) if entry.period else None


def _moment(text: str | None) -> datetime | None:
    """Return a moment; a date alone means its midnight in UTC."""
    moment = datetime.fromisoformat(text) if text else None
    return moment and (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
