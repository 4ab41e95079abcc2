"""Finds the bed a patient lies in, from the beds that admissions, transfers and discharges report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote

from pipelines.online_store.facts import Placement

BED = "bed:"
"""Prefix of the id of a bed, which tells it from the ids of devices."""


def bed_name(unit: str, room: str, bed: str) -> str:
    """Return the id of a bed, ``bed:<unit>/<room>/<bed>``."""
    return BED + "/".join(part.replace("%", "%25").replace("/", "%2F") for part in (unit, room, bed))


NOWHERE = bed_name("", "", "")
"""Stands for the bed of a patient who is in a stay, where no message says in which bed."""


class CurrentBed(NamedTuple):
    """The bed a patient lies in.

    Attributes:
        encounter: the stay's pseudonym; empty: not known.
        since_us: since when the patient lies there.
        unit: the point of care; empty: not known.
        bed: room and bed, as the source names them.
    """

    encounter: str
    since_us: int
    unit: str
    bed: str


def valid_placements(placements: Iterable[Placement], *, as_of_us: int) -> list[Placement]:
    """Return the placements that count at a moment: without mistakes, and without discharges cancelled until then."""
    begun = [one for one in placements if one.since_us <= as_of_us and one.status != "entered-in-error"]
    cancellations: dict[str, list[Placement]] = {}
    for one in begun:
        if one.discharged and one.status == "active":
            cancellations.setdefault(one.encounter, []).append(one)

    def ends(one: Placement) -> bool:
        return one.status == "ended" and not any(_cancels(two, one) for two in cancellations.get(one.encounter, ()))

    return [one for one in begun if not one.discharged or ends(one)]


def _cancels(cancellation: Placement, end: Placement) -> bool:
    """Return whether a discharge was known before a message said that the stay goes on, whatever the discharge's time.

    Of two known in the same second the order is not known; then the discharge is cancelled, so that a patient who could
    still be there is shown.
    """
    if cancellation.known_us and end.known_us:
        return end.known_us <= cancellation.known_us
    return end.since_us <= cancellation.since_us


def discharges(
    placements: Iterable[Placement], *, as_of_us: int, which: Callable[[int, int], int] = max
) -> dict[str, int]:
    """Return when each stay ended according to its discharges, by the stay's pseudonym; empty: a stay without a number.

    Args:
        placements: of the patient.
        as_of_us: the moment; what was later is not looked at.
        which: how to choose among several discharges of a stay: ``max`` for the last one, ``min`` for the first.
    """
    ends: dict[str, int] = {}
    for one in valid_placements(placements, as_of_us=as_of_us):
        if one.discharged:
            ends[one.encounter] = which(one.since_us, ends.get(one.encounter, one.since_us))
    return ends


def occupied_beds(placements: Iterable[Placement], *, as_of_us: int) -> list[Placement]:
    """Return the beds that a patient has at a moment: those that began, and were not left since in the same stay.

    A placement that names no stay could belong to any. Such a placement is compared with others by its bed alone.
    """
    begun = valid_placements(placements, as_of_us=as_of_us)
    over = discharges(begun, as_of_us=as_of_us)
    left: dict[tuple[str, str], int] = {}
    for one in begun:
        if one.status == "ended":
            for named in {one.encounter, _ANY}:
                left[named, one.bed] = max(one.since_us, left.get((named, one.bed), one.since_us))

    def left_us(one: Placement) -> int:
        return max(left.get((named, one.bed), -1) for named in ({one.encounter, ""} if one.encounter else {_ANY}))

    return [
        one
        for one in begun
        if one.status == "active"
        and (one.until_us is None or one.until_us > as_of_us)
        and one.since_us > max(left_us(one), over.get(one.encounter, -1))
    ]


_ANY = "*"
"""Stands for any stay, in the place of a stay's pseudonym."""


def current_bed(placements: Iterable[Placement], *, as_of_us: int) -> CurrentBed | None:
    """Return the bed a patient lies in at a moment: the one begun last that was not left since; None: none is known.

    Of two that began at the same moment, as when an admission is corrected, the one that became known last counts.
    """
    occupied = [(one, *_bed_at(one, as_of_us)) for one in occupied_beds(placements, as_of_us=as_of_us)]
    beds = [(since_us, one.known_us, bed, one.encounter) for one, since_us, bed in occupied if bed not in ("", NOWHERE)]
    if not beds:
        return None
    since_us, _, name, encounter = max(beds)
    unit, room, bed = (unquote(part) for part in (*name.removeprefix(BED).split("/"), "", "")[:3])
    return CurrentBed(encounter, since_us, unit, " ".join(part for part in (room, bed) if part))


def _bed_at(one: Placement, as_of_us: int) -> tuple[int, str]:
    """Return the bed of a placement at a moment, and since when: its own, or one that follows it."""
    return max((then for then in one.then if then[0] <= as_of_us), default=(one.since_us, one.bed))


def next_move(placements: Iterable[Placement], *, as_of_us: int) -> int | None:
    """Return the beginning of the next planned bed after a moment; None: none is planned."""
    later = (at_us for one in occupied_beds(placements, as_of_us=as_of_us) for at_us, _ in one.then if at_us > as_of_us)
    return min(later, default=None)
