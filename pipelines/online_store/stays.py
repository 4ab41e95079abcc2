"""Which names are of one stay: admission messages and FHIR Encounters may each have one of their own for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipelines.online_store.facts import FOR_EVER, Admission, Placement, ends_a_stay
from pipelines.online_store.placing import Placed, counting, discharges, held, placed


def bed_key(encounter: str) -> str:
    """Return the key of the Placement in which a stay's own record tells of its bed."""
    return f"stay/{encounter}"


CONTINUES_US = 15 * 60_000_000
"""Who is admitted so soon after an end has not been away: emergency department and ward have clocks of their own."""


@dataclass(frozen=True, slots=True)
class HospitalStay:
    """What of stays was at the same time, one with the next, or began as the one before ended.

    Attributes:
        names: pseudonyms of its stays.
        begin_us, end_us: from when until when; FOR_EVER: one of them is open.
    """

    names: frozenset[str]
    begin_us: int
    end_us: int

    def lasts(self, at_us: int) -> bool:
        """Return whether a moment is in it."""
        return self.begin_us <= at_us < self.end_us

    def has(self, visit: HospitalStay) -> bool:
        """Return whether a visit lasts into it, or until it begins, or begins within it."""
        return visit.begin_us < self.end_us and self.begin_us <= visit.end_us


def hospital_stays(admissions: Mapping[str, Admission], placements: Iterable[Placement]) -> list[HospitalStay]:
    """Return when somebody was in hospital, first to last: a facility's, its departments' and its procedures' stays.

    A visit, or a series of them, joins no stays: who comes for dialysis for years has not been there all the time. One
    that lasts until a hospital stay begins, or begins within it, has its name in that stay, and in each of several; one
    that does not, or lasts longer, is one of its own.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    found, visits = list[HospitalStay](), list[HospitalStay]()
    for begin_us, end_us, name in sorted(_periods(admissions, placements)):
        last = found[-1] if found else None
        if name in admissions and admissions[name].outpatient:
            visits.append(HospitalStay(frozenset({name}), begin_us, end_us))
        elif last is not None and begin_us <= last.end_us + CONTINUES_US:
            found[-1] = HospitalStay(last.names | {name}, last.begin_us, max(last.end_us, end_us))
        else:
            found.append(HospitalStay(frozenset({name}), begin_us, end_us))
    alone = [visit for visit in visits if not any(stay.has(visit) and visit.end_us <= stay.end_us for stay in found)]
    stays = [replace(stay, names=stay.names.union(*(one.names for one in visits if stay.has(one)))) for stay in found]
    return sorted([*stays, *alone], key=lambda one: one.begin_us)


def _periods(admissions: Mapping[str, Admission], placements: Iterable[Placement]) -> Iterator[tuple[int, int, str]]:
    """Yield of each stay from when until when it was; beds without a number may be of several stays."""
    placements = list(placements)
    first = _bounds(admissions, placements, FOR_EVER)[2]
    over = ended(admissions, placements, as_of_us=FOR_EVER)
    for name, begin_us in first.items():
        if name:
            yield begin_us, over.get(name, FOR_EVER), name
    moves = counting(placements, as_of_us=FOR_EVER)
    nameless = sorted(one.since_us for one in moves if not one.encounter and not one.discharged)
    for end_us in [*sorted(_nameless_ends(moves)), *([] if "" in over else [FOR_EVER])]:
        if until_then := [since_us for since_us in nameless if since_us <= end_us]:
            yield until_then[0], end_us, ""
        nameless = nameless[len(until_then) :]


def _nameless_ends(told: Collection[Placement]) -> set[int]:
    """Return when beds without a number were left for good."""
    moves = [one for one in told if not one.discharged]
    return {one.since_us for one in told if one.discharged and "" in {one.encounter} | _also_ended(one, moves)}


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


def ended(admissions: Mapping[str, Admission], placements: Iterable[Placement], *, as_of_us: int) -> dict[str, int]:
    """Return which stays are over at a moment, and since when: by an end of their own at or after their last beginning.

    A transfer begins no stay: an end that became known after it, told as of an earlier time, counts all the same; but
    not one from before anything that is known of the stay: its date is a mistake.

    A discharge without the stay's number ends the stay whose bed it tells of, too; one with a number also what was
    begun in that bed without.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
        as_of_us: the moment; what began or ended later is not looked at.
    """
    starts, ends, _ = _bounds(admissions, placements, as_of_us)
    return {name: end for name, end in ends.items() if starts.get(name, -1) <= end}


def _bounds(
    admissions: Mapping[str, Admission], placements: Iterable[Placement], as_of_us: int
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return of each stay when it last began, last ended, and first began; whoever left a bed was in the stay then."""
    told = counting(placements, as_of_us=as_of_us)
    begun = {name: one for name, one in admissions.items() if one.admitted_us <= as_of_us}
    last, first, ends = dict[str, int](), dict[str, int](), discharges(told, as_of_us=as_of_us)
    moves = [one for one in told if not one.discharged]
    transfers = {(one.encounter, one.since_us) for one in moves if one.status == "ended"}
    known = {name: one.known_us for name, one in begun.items() if one.ended_us is not None}
    for one in told:
        for name in _also_ended(one, moves) | ({one.encounter} if one.discharged else set()):
            ends[name] = max(one.since_us, ends.get(name, one.since_us))
            known[name] = max(one.known_us, known.get(name, 0))
    for one in moves:
        first[one.encounter] = min(one.since_us, first.get(one.encounter, one.since_us))
    wrong = {name for name, end in ends.items() if name not in begun and end < first.get(name, end)}
    for one in moves:
        known_us = 0 if one.encounter in wrong else known.get(one.encounter, 0)
        is_before = (one.encounter, one.since_us) in transfers and one.known_us <= known_us != 0
        if not is_before:
            last[one.encounter] = max(one.since_us, last.get(one.encounter, one.since_us))
    first = discharges(told, as_of_us=as_of_us, which=min) | first
    for name, stay in begun.items():
        first[name] = stay.admitted_us
        if stay.ended_us is None or stay.ended_us > as_of_us:
            last[name] = max(stay.admitted_us, last.get(name, -1))
        else:
            ends[name] = max(stay.ended_us, ends.get(name, -1))
    return last, ends, first


def _also_ended(end: Placement, moves: Collection[Placement]) -> set[str]:
    """Return which stays a discharge ends beside that of its number: where one of the two has none, by the bed."""
    if not end.discharged or all(end.encounter and one.encounter for one in moves):
        return set()
    there = held(moves, as_of_us=end.since_us)
    return {one.encounter for one in there if one.bed == end.bed and "" in (one.encounter, end.encounter)}


def lately_ended(
    admissions: Mapping[str, Admission], placements: Iterable[Placement], *, since_us: int
) -> frozenset[str]:
    """Return the stays of which an end became known since a moment, whenever that was: it may yet be corrected."""
    placements = list(placements)
    told = {name for name, one in admissions.items() if ends_a_stay(one) and one.told_us >= since_us}
    moves = [one for one in placements if not one.discharged]
    for one in placements:
        if ends_a_stay(one) and one.told_us >= since_us:
            told |= {one.encounter} | _also_ended(one, moves)
    return frozenset(told)


def standing(
    admissions: Mapping[str, Admission], placements: Collection[Placement], *, as_of_us: int
) -> Standing | None:
    """Return the stay that somebody is in, or was in last; None: none is known.

    Somebody is gone when no stay is open, whichever was begun last: a procedure, or a visit to a clinic, that has
    ended within a stay ends nothing but itself, and who was moved to a place without a bed is still in the stay. Of
    several open ones the one begun last counts, of those that beds alone tell of one with a bed first. What an
    admission message tells of a bed is of a stay, too; a bed that an ended stay told of is left with it.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
        as_of_us: the moment; what began later is not looked at.
    """
    last, ends, first = _bounds(admissions, placements, as_of_us)
    over = {name: end for name, end in ends.items() if last.get(name, -1) <= end}
    goes_on = [one for one in placements if one.encounter not in over and one.since_us > ends.get(one.encounter, -1)]
    place = placed(goes_on, as_of_us=as_of_us)
    still = last.keys() - over.keys()
    known = {name for name in still & admissions.keys() if not _is_ended(admissions[name], as_of_us)}
    if known:
        name = max(known, key=lambda name: (first[name], name))
        return Standing(name, first[name], None, place, frozenset(still))
    if place is not None:
        return Standing(place.encounter, place.since_us, None, place, frozenset(still))
    if still:
        name = max(still, key=lambda name: (last[name], name))
        moves = [one.since_us for one in placements if one.encounter == name and one.status != "entered-in-error"]
        begun_us = min(since_us for since_us in moves if since_us > ends.get(name, -1))
        return Standing(name, begun_us, None, None, frozenset(still))
    if not over:
        return None
    name = max(over, key=lambda name: (over[name], name))
    last_us = over[name]
    until_then = [one for one in placements if over.get(one.encounter, last_us) >= last_us]
    return Standing(name, first[name], last_us, placed(until_then, as_of_us=last_us - 1), frozenset({name}))


def forgotten_beds(
    admissions: Mapping[str, Admission],
    placements: Mapping[str, Placement],
    over: Mapping[str, int],
    horizon_us: int,
    *,
    kept: frozenset[str],
    as_of_us: int,
) -> set[str]:
    """Return the keys of placements that need not be kept.

    What a stay's own record says of its bed is kept with the stay, also that it has none: an older version may come.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient, by their keys.
        over: the stays that are forgotten, with their ends.
        horizon_us: a stay without a bed since then has no end that anybody will tell.
        kept: stays that are kept whatever is known of their beds.
        as_of_us: now.
    """
    gone = {key for key, one in placements.items() if one.encounter in over and one.since_us <= as_of_us}
    # A release before kept the bed of an Encounter that it had forgotten.
    gone |= {
        key for key, one in placements.items() if key == bed_key(one.encounter) and one.encounter not in admissions
    }
    rest = {key: one for key, one in placements.items() if key not in gone}
    recent = {one.encounter for one in rest.values() if one.since_us >= horizon_us}
    recent |= kept | {one.encounter for one in held(rest.values(), as_of_us=as_of_us)}
    if recent and any(not one.encounter for one in rest.values()):  # what names no stay may be of any
        return gone
    return gone | {key for key, one in rest.items() if one.encounter not in recent and key != bed_key(one.encounter)}


def _is_ended(stay: Admission, as_of_us: int) -> bool:
    return stay.admitted_us > as_of_us or (stay.ended_us is not None and stay.ended_us <= as_of_us)


def same_stay(
    encounter: str, admissions: Mapping[str, Admission], placements: Iterable[Placement]
) -> HospitalStay | None:
    """Return the hospital stay that a stay is part of, of beds without a number the last one; None: it is not known.

    Args:
        encounter: the stay's pseudonym; empty: beds without a number.
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    found = [one for one in hospital_stays(admissions, placements) if encounter in one.names]
    return max(found, key=lambda one: (one.end_us, one.begin_us), default=None)


def is_of_stay(
    said: str, at_us: int, encounter: str, admissions: Mapping[str, Admission], placements: Iterable[Placement]
) -> bool:
    """Return whether what was said of a patient for one stay is of another one, too.

    What was said is of the whole hospital stay: that of the stay that it names, and that of its time, for the named one
    may have ended before without anybody's knowing. What was said while no stay was known is of all that follows until
    a hospital stay has ended. Where no stay is known now, what was said for one holds until that has ended.

    Args:
        said: the stay's pseudonym it was said for; empty: none was known.
        at_us: when it was said.
        encounter: the stay's that is asked for; empty: none is known.
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    visits = {name for name, one in admissions.items() if one.outpatient}
    if said == encounter != "" and said not in visits:
        return True
    placements = list(placements)
    now = same_stay(encounter, admissions, placements)
    stays = hospital_stays(admissions, placements)
    others = [one for one in stays if one != now and not one.names <= visits]
    elsewhere = said in visits and any(one.lasts(at_us) for one in others)
    if now is not None and said and said in now.names:  # a visit's name may be in several stays
        return not elsewhere
    # A series of visits lasts through stays.
    through = now is not None and now.names <= visits and (elsewhere or said not in {"", *visits})
    if now is not None and now.lasts(at_us) and not through:
        return True
    if said:
        of = same_stay(said, admissions, placements)
        return not encounter and now is None and (of is None or of.end_us == FOR_EVER)
    begun_us = at_us if now is None else now.begin_us
    return not any(at_us <= one.end_us <= begun_us for one in stays if one != now)
