"""Which names are of one stay: admission messages and FHIR Encounters may each have one of their own for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vitalake.care.facts import FOR_EVER, Admission, Placement
from vitalake.care.placing import Placed, discharges, placed


@dataclass(frozen=True, slots=True)
class Period:
    """From when until when somebody was in a stay; FOR_EVER: no end was told."""

    begin_us: int
    end_us: int


def periods(admissions: Mapping[str, Admission], placements: Iterable[Placement]) -> dict[str, Period]:
    """Return of each stay from when until when it was, by its admission, else by the beds that were told of it."""
    beds: dict[str, list[Placement]] = {}
    for one in placements:
        if one.encounter and one.encounter not in admissions and one.status != "entered-in-error":
            beds.setdefault(one.encounter, []).append(one)
    found = {encounter: _of_beds(several) for encounter, several in beds.items()}
    return found | {
        encounter: Period(one.admitted_us, FOR_EVER if one.discharged_us is None else one.discharged_us)
        for encounter, one in admissions.items()
    }


def _of_beds(several: Collection[Placement]) -> Period:
    """Return from when until when a bed was had; FOR_EVER while one is not left."""
    left: dict[str, int] = {}
    for one in several:
        if one.status == "ended":
            left[one.bed] = max(one.since_us, left.get(one.bed, one.since_us))
    ends = [one.since_us for one in several if one.status == "ended"]
    for one in several:
        if one.status != "ended":
            left_us = left.get(one.bed, -1)
            ends.append(FOR_EVER if one.until_us is None and left_us < one.since_us else one.until_us or left_us)
    return Period(min(one.since_us for one in several), max(ends))


@dataclass(frozen=True, slots=True)
class Standing:
    """The stay that somebody is in, or was in last.

    Attributes:
        encounter: its pseudonym; empty: not known.
        admitted_us: since when.
        ended_us: when it ended; None: it is open.
        place: the bed of now, of an ended stay the last one; None: not known.
        names: pseudonyms of all stays that are open, else its own.
    """

    encounter: str
    admitted_us: int
    ended_us: int | None
    place: Placed | None
    names: frozenset[str]


def standing(
    admissions: Mapping[str, Admission], placements: Collection[Placement], *, as_of_us: int
) -> Standing | None:
    """Return the stay that somebody is in; None: none is known, or a bed was left and nobody said for where.

    Somebody is gone when no stay is open, whichever was begun last: a procedure, or a visit to a clinic, that has
    ended within a stay ends nothing but itself. Of several open ones the one begun last counts. What an admission
    message tells of a bed is of a stay, too; a bed that an ended admission told of is left with it.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
        as_of_us: the moment; what began later is not looked at.
    """
    begun = {name: one for name, one in admissions.items() if one.admitted_us <= as_of_us}
    ends = {n: a.discharged_us for n, a in begun.items() if a.discharged_us is not None and a.discharged_us <= as_of_us}
    place = placed([p for p in placements if p.since_us > ends.get(p.encounter, -1)], as_of_us=as_of_us)
    still = begun.keys() - ends.keys()
    if still:
        name = max(still, key=lambda name: (begun[name].admitted_us, name))
        return Standing(name, begun[name].admitted_us, None, place, frozenset(still))
    if place is not None:
        return Standing(place.encounter, place.since_us, None, place, frozenset({place.encounter}))
    told = [one for one in placements if one.since_us <= as_of_us and one.status != "entered-in-error"]
    ends |= {name: end for name, end in discharges(told, as_of_us=as_of_us).items() if name not in ends}
    last_us = max(ends.values(), default=None)
    if last_us is None or any(one.encounter not in ends and one.since_us > last_us for one in told):
        return None
    name = max(ends, key=lambda name: (ends[name], name))
    first = begun[name].admitted_us if name in begun else min(one.since_us for one in told if one.encounter == name)
    until_then = [one for one in told if ends.get(one.encounter, last_us) >= last_us]
    return Standing(name, first, last_us, placed(until_then, as_of_us=last_us - 1), frozenset({name}))


def same_stay(encounter: str, admissions: Mapping[str, Admission], placements: Iterable[Placement]) -> frozenset[str]:
    """Return all names of a stay: those of what was at the same time.

    Args:
        encounter: one of them.
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    known = periods(admissions, placements)
    mine = known.get(encounter)
    if mine is None:
        return frozenset({encounter})
    return frozenset(
        name
        for name, one in known.items()
        if name == encounter or (one.begin_us < mine.end_us and mine.begin_us < one.end_us)
    )


def is_of_stay(
    said: str, at_us: int, encounter: str, admissions: Mapping[str, Admission], placements: Iterable[Placement]
) -> bool:
    """Return whether what was said of a patient for one stay is of another one, too.

    What was said while no stay was known is of all that follows until a stay has ended. Where no stay is known now,
    what was said for one holds until that has ended.

    Args:
        said: the stay's pseudonym it was said for; empty: none was known.
        at_us: when it was said.
        encounter: the stay's that is asked for; empty: none is known.
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    if said == encounter:
        return True
    placements = list(placements)
    known = periods(admissions, placements)
    if said and encounter:
        return said in same_stay(encounter, admissions, placements)
    if said:
        return said not in known or known[said].end_us == FOR_EVER
    begun_us = known[encounter].begin_us if encounter in known else at_us
    return not any(at_us <= one.end_us <= begun_us for name, one in known.items() if name != encounter)
