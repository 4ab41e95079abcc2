"""Where a stay's patient lies, as Encounter.location tells it: ward, room and bed, each a Location of its kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Raw

from pipelines.formats.fhir.elements import checked
from pipelines.formats.fhir.record_structs import Period, ShownConcept, TypedIdentifier
from pipelines.formats.shared.encoded import Refused
from pipelines.online_store.placing import NOWHERE, bed_name
from vitalake import clock

KINDS = ("wa", "ro", "bd")
"""Ward, room, bed, by HL7's code system location-physical-type. A building or a hospital is nobody's bed."""


_FIRST = datetime.min.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = len("2026-01-31")


class _Where(msgspec.Struct, gc=False):
    reference: str | None = None
    display: str | None = None
    identifier: TypedIdentifier | None = None


class _Location(msgspec.Struct, gc=False):
    """An entry of Encounter.location; R5 calls physicalType form."""

    location: _Where | None = None
    status: str | None = None
    physicalType: ShownConcept | None = None
    form: ShownConcept | None = None
    period: Period | None = None


LEFT = "0 "
"""That the patient has left the beds and wards of the stay that are told of."""

_LOCATIONS = msgspec.json.Decoder(list[_Location])


AND_THEN = "\0"
"""Between the places of a stay, the one of now first; no name holds it."""

_MOST_AHEAD = timedelta(hours=2)
"""How far ahead an active place may begin to be that of now: clocks are wrong by a time zone; tomorrow's bed waits."""


def place_of(raw: Raw, admitted: datetime | None) -> str | None:
    """Return since when the patient lies where, as ``<microseconds> bed:<ward>/<room>/<bed>``; None: it is not told.

    Who has left a bed or a ward, and is in no other that is told of, lies in none: LEFT. Wherever they are now, a room
    or a place that does not say its kind, it is not there. What begins ahead of our clock follows AND_THEN, with no bed
    where all is left then.

    What cannot be read tells nothing: a stay is not refused for it.

    Args:
        raw: Encounter.location.
        admitted: since when, where the location does not say.
    """
    text = bytes(raw)
    if not text or text == b"null":
        return None
    try:
        entries, now = _LOCATIONS.decode(text), clock.now()
        early = _begun_by_their_clock(entries, now)
        place = _place_at(entries, now, admitted, early)
        ahead = {at for one in entries if one not in early and (at := _begun(one)) and at > now and _may_hold(one)}
        then = [_then(entries, at) for at in sorted(ahead)]
    except (msgspec.MsgspecError, ValueError, Refused):
        return None
    if then and place in (None, LEFT):
        place = f"{_microseconds(admitted or _EPOCH)} {NOWHERE}"
    return place if place is None else AND_THEN.join([place, *then])


def _place_at(entries: list[_Location], now: datetime, admitted: datetime | None, early: list[_Location]) -> str | None:
    held = [entry for entry in entries if _holds(entry, now) or entry in early]
    said, since = dict.fromkeys(KINDS, ""), admitted
    for entry in sorted(held, key=lambda one: _begun(one) or _FIRST):
        kind, name, begun = _kind(entry), _name(entry), _begun(entry)
        if kind and name:
            said[kind] = checked(name)
            since = begun if begun and (since is None or begun > since) else since
    named = [entry for entry in entries if _kind(entry) in ("wa", "bd")]
    if any(_is_over(entry, now) for entry in named) and not any(entry in held for entry in named):
        return LEFT
    if since is None or not (said["bd"] or said["wa"]):
        return None
    return f"{_microseconds(since)} {bed_name(*said.values())}"


def _then(entries: list[_Location], at: datetime) -> str:
    """Return where the patient lies from a moment on at which a place begins."""
    place = _place_at(entries, at, at, [])
    return f"{_microseconds(at)} {place.partition(' ')[2] if place else ''}"


def _begun_by_their_clock(entries: list[_Location], now: datetime) -> list[_Location]:
    """Return the bed, and the ward, that are active and begin ahead while no other is had: somebody is there now."""
    found, had = list[_Location](), {_kind(entry) for entry in entries if _holds(entry, now)}
    for kind, others in (("bd", {"bd"}), ("wa", {"wa", "bd"})):
        begins = [
            (at, i)
            for i, one in enumerate(entries)
            if _kind(one) == kind and one.status == "active" and (at := _begun(one))
        ]
        if had.isdisjoint(others):
            found += [entries[i] for at, i in sorted(begins)[:1] if now < at <= now + _MOST_AHEAD]
    return found


def _may_hold(entry: _Location) -> bool:
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


def _holds(entry: _Location, now: datetime) -> bool:
    """Return whether the patient is there now: a bed may be told of before it is taken, and with its planned end."""
    begun, ended = _begun(entry), _moment(entry.period.end) if entry.period else None
    if entry.period and entry.period.end and len(entry.period.end) == _DAY:
        ended = ended + timedelta(days=1) if ended else None
    return entry.status in (None, "active") and (begun is None or begun <= now) and (ended is None or ended > now)


def _is_over(entry: _Location, now: datetime) -> bool:
    """Return whether it is said that the patient has left."""
    if entry.status == "completed":
        return True
    return (
        entry.status in (None, "active") and not _holds(entry, now) and not ((begun := _begun(entry)) and begun > now)
    )


def _begun(entry: _Location) -> datetime | None:
    return _moment(entry.period.start) if entry.period else None


def _moment(text: str | None) -> datetime | None:
    """Return a moment; of a day its beginning in UTC."""
    moment = datetime.fromisoformat(text) if text else None
    return moment and (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
