"""Where a patient lies, by what admissions and transfers have told of beds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from vitalake.care.facts import Placement

BED = "bed:"
"""What the id of a bed begins with, where devices have ids of their own."""


def bed_name(unit: str, room: str, bed: str) -> str:
    """Return the id of a bed, ``bed:<unit>/<room>/<bed>``."""
    return BED + "/".join(part.replace("%", "%25").replace("/", "%2F") for part in (unit, room, bed))


class Placed(NamedTuple):
    """Where a patient lies.

    Attributes:
        encounter: the stay's pseudonym; empty: not known.
        since_us: since when.
        unit: the point of care; empty: not known.
        bed: room and bed, as the source names them.
    """

    encounter: str
    since_us: int
    unit: str
    bed: str


def discharges(placements: Iterable[Placement], *, as_of_us: int) -> dict[str, int]:
    """Return when stays ended, as discharges tell: of each the last time; empty name: the stay has no number."""
    found: dict[str, int] = {}
    for one in placements:
        if one.discharged and one.status == "ended" and one.since_us <= as_of_us:
            found[one.encounter] = max(one.since_us, found.get(one.encounter, one.since_us))
    return found


def placed(placements: Iterable[Placement], *, as_of_us: int) -> Placed | None:
    """Return the bed a patient lies in at a moment: the one begun last that was not left since; None: none is known."""
    begun = [one for one in placements if one.since_us <= as_of_us]
    over = discharges(begun, as_of_us=as_of_us)
    left: dict[str, int] = {}
    for one in begun:
        if one.status == "ended":
            left[one.bed] = max(one.since_us, left.get(one.bed, one.since_us))
    held = [
        one
        for one in begun
        if one.status == "active"
        and (one.until_us is None or one.until_us > as_of_us)
        and one.since_us > max(left.get(one.bed, -1), over.get(one.encounter, -1))
    ]
    last = max(held, key=lambda one: (one.since_us, one.bed), default=None)
    if last is None:
        return None
    unit, room, bed = (unquote(part) for part in (*last.bed.removeprefix(BED).split("/"), "", "")[:3])
    return Placed(last.encounter, last.since_us, unit, " ".join(part for part in (room, bed) if part))
