"""Which names are of one stay: admission messages and FHIR Encounters may each have one of their own for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vitalake.care.facts import FOR_EVER, Admission, Placement


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
