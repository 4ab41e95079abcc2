"""Where a patient lies, by what admissions and transfers have told of beds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote

from pipelines.online_store.facts import Placement

BED = "bed:"
"""What the id of a bed begins with, where devices have ids of their own."""


def bed_name(unit: str, room: str, bed: str) -> str:
    """Return the id of a bed, ``bed:<unit>/<room>/<bed>``."""
    return BED + "/".join(part.replace("%", "%25").replace("/", "%2F") for part in (unit, room, bed))


NOWHERE = bed_name("", "", "")
"""The bed of who is in a stay, and nobody says where."""


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


def counting(placements: Iterable[Placement], *, as_of_us: int) -> list[Placement]:
    """Return what of placements counts at a moment: no mistakes, and no discharges that were taken back until then."""
    begun = [one for one in placements if one.since_us <= as_of_us and one.status != "entered-in-error"]
    goes_on: dict[str, list[Placement]] = {}
    for one in begun:
        if one.discharged and one.status == "active":
            goes_on.setdefault(one.encounter, []).append(one)

    def ends(one: Placement) -> bool:
        return one.status == "ended" and not any(_takes_back(two, one) for two in goes_on.get(one.encounter, ()))

    return [one for one in begun if not one.discharged or ends(one)]


def _takes_back(goes_on: Placement, end: Placement) -> bool:
    """Return whether a discharge was told until somebody said that the stay goes on, whatever time it had.

    Of one second nobody knows which was told last: who may be there is shown.
    """
    if goes_on.known_us and end.known_us:
        return end.known_us <= goes_on.known_us
    return end.since_us <= goes_on.since_us


def discharges(
    placements: Iterable[Placement], *, as_of_us: int, which: Callable[[int, int], int] = max
) -> dict[str, int]:
    """Return when stays ended, as discharges tell: of each the last time; empty name: the stay has no number.

    Args:
        placements: of the patient.
        as_of_us: the moment; what was later is not looked at.
        which: min: the first time.
    """
    found: dict[str, int] = {}
    for one in counting(placements, as_of_us=as_of_us):
        if one.discharged:
            found[one.encounter] = which(one.since_us, found.get(one.encounter, one.since_us))
    return found


def held(placements: Iterable[Placement], *, as_of_us: int) -> list[Placement]:
    """Return the beds that are had at a moment: those that were begun, and not left since in the same stay.

    What names no stay may be of any: of it, and for it, the bed alone counts.
    """
    begun = counting(placements, as_of_us=as_of_us)
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
"""In the place of a stay's pseudonym: any of them."""


def placed(placements: Iterable[Placement], *, as_of_us: int) -> Placed | None:
    """Return the bed a patient lies in at a moment: the one begun last that was not left since; None: none is known.

    Of two that began at one moment, as when an admission is corrected, the one that was told last counts.
    """
    found = [(one, *_lies(one, as_of_us)) for one in held(placements, as_of_us=as_of_us)]
    beds = [(since_us, one.known_us, bed, one.encounter) for one, since_us, bed in found if bed not in ("", NOWHERE)]
    if not beds:
        return None
    since_us, _, name, encounter = max(beds)
    unit, room, bed = (unquote(part) for part in (*name.removeprefix(BED).split("/"), "", "")[:3])
    return Placed(encounter, since_us, unit, " ".join(part for part in (room, bed) if part))


def _lies(one: Placement, as_of_us: int) -> tuple[int, str]:
    """Return since when which bed is had, of one that is held."""
    return max((then for then in one.then if then[0] <= as_of_us), default=(one.since_us, one.bed))


def next_move(placements: Iterable[Placement], *, as_of_us: int) -> int | None:
    """Return when a bed that is told of already begins, after a moment; None: none does."""
    later = (at_us for one in held(placements, as_of_us=as_of_us) for at_us, _ in one.then if at_us > as_of_us)
    return min(later, default=None)
