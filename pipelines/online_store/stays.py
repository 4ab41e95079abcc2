"""Groups the names of one hospital stay: admission messages and FHIR Encounters can each have their own name for it.

A *name* is the pseudonym of an encounter; the empty name stands for beds of which no message names the encounter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipelines.online_store.facts import FOR_EVER, Admission, Placement, ends_a_stay
from pipelines.online_store.placing import CurrentBed, current_bed, discharges, occupied_beds, valid_placements


def bed_key(encounter: str) -> str:
    """Return the key of the Placement that a stay's own record (an Encounter) gives for its bed."""
    return f"stay/{encounter}"


CONTINUES_US = 15 * 60_000_000
"""A stay that begins so soon after the end of another continues it: emergency department and ward have clocks of their
own."""


@dataclass(frozen=True, slots=True)
class HospitalStay:
    """Stays that overlap, or follow one another without a gap, taken as one.

    Attributes:
        names: pseudonyms of its stays.
        begin_us, end_us: the beginning and the end; an end of FOR_EVER: one of the stays is open.
    """

    names: frozenset[str]
    begin_us: int
    end_us: int

    def lasts(self, at_us: int) -> bool:
        """Return whether a moment lies within it."""
        return self.begin_us <= at_us < self.end_us

    def has(self, visit: HospitalStay) -> bool:
        """Return whether a visit overlaps it, or ends at the moment at which it begins."""
        return visit.begin_us < self.end_us and self.begin_us <= visit.end_us


def hospital_stays(admissions: Mapping[str, Admission], placements: Iterable[Placement]) -> list[HospitalStay]:
    """Return the hospital stays of a patient in order, each with the stays of its facility, departments and procedures.

    A visit, or a series of visits, does not join stays: a patient who comes for dialysis for years was not in hospital
    all the time. A visit that overlaps a hospital stay, or ends as one begins, adds its name to that stay, and to each
    of several. A visit that overlaps none, or lasts longer, is also listed as a stay of its own.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    joined, visits = list[HospitalStay](), list[HospitalStay]()
    for begin_us, end_us, name in sorted(_periods(admissions, placements)):
        last = joined[-1] if joined else None
        if name in admissions and admissions[name].outpatient:
            visits.append(HospitalStay(frozenset({name}), begin_us, end_us))
        elif last is not None and begin_us <= last.end_us + CONTINUES_US:
            joined[-1] = HospitalStay(last.names | {name}, last.begin_us, max(last.end_us, end_us))
        else:
            joined.append(HospitalStay(frozenset({name}), begin_us, end_us))
    alone = [visit for visit in visits if not any(stay.has(visit) and visit.end_us <= stay.end_us for stay in joined)]
    stays = [replace(stay, names=stay.names.union(*(one.names for one in visits if stay.has(one)))) for stay in joined]
    return sorted([*stays, *alone], key=lambda one: one.begin_us)


def _periods(admissions: Mapping[str, Admission], placements: Iterable[Placement]) -> Iterator[tuple[int, int, str]]:
    """Yield beginning, end and name of each stay; beds without an encounter can yield several, all without a name."""
    placements = list(placements)
    first = _bounds(admissions, placements, FOR_EVER)[2]
    over = ended_stays(admissions, placements, as_of_us=FOR_EVER)
    for name, begin_us in first.items():
        if name:
            yield begin_us, over.get(name, FOR_EVER), name
    moves = valid_placements(placements, as_of_us=FOR_EVER)
    nameless = sorted(one.since_us for one in moves if not one.encounter and not one.discharged)
    for end_us in [*sorted(_nameless_ends(moves)), *([] if "" in over else [FOR_EVER])]:
        if until_then := [since_us for since_us in nameless if since_us <= end_us]:
            yield until_then[0], end_us, ""
        nameless = nameless[len(until_then) :]


def _nameless_ends(valid: Collection[Placement]) -> set[int]:
    """Return the times of discharges that ended beds without an encounter."""
    moves = [one for one in valid if not one.discharged]
    return {one.since_us for one in valid if one.discharged and "" in {one.encounter} | _also_ended(one, moves)}


@dataclass(frozen=True, slots=True)
class CurrentStay:
    """The stay that a patient is in, or was in last.

    Attributes:
        encounter: its pseudonym; empty: not known.
        admitted_us: when it began.
        ended_us: when it ended; None: it is open.
        place: the current bed, or the last one of an ended stay; None: not known.
        names: pseudonyms of all open stays; where none is open, its own.
    """

    encounter: str
    admitted_us: int
    ended_us: int | None
    place: CurrentBed | None
    names: frozenset[str]


def ended_stays(
    admissions: Mapping[str, Admission], placements: Iterable[Placement], *, as_of_us: int
) -> dict[str, int]:
    """Return the stays that are over at a moment, with their ends: each ended at or after its last beginning.

    A transfer does not begin a stay. An end that became known after a transfer counts, even if its time is earlier than
    the transfer. An end before everything else that is known of the stay does not count: its date is a mistake.

    A discharge without an encounter also ends the stay whose bed it names. A discharge with an encounter also ends the
    placement of no encounter in that bed.

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
    """Return when each stay last began, last ended, and first began.

    A bed that is left also shows that the patient was in the stay then.
    """
    valid = valid_placements(placements, as_of_us=as_of_us)
    begun = {name: one for name, one in admissions.items() if one.admitted_us <= as_of_us}
    last, first, ends = dict[str, int](), dict[str, int](), discharges(valid, as_of_us=as_of_us)
    moves = [one for one in valid if not one.discharged]
    transfers = {(one.encounter, one.since_us) for one in moves if one.status == "ended"}
    end_known = {name: one.known_us for name, one in begun.items() if one.ended_us is not None}
    for one in valid:
        for name in _also_ended(one, moves) | ({one.encounter} if one.discharged else set()):
            ends[name] = max(one.since_us, ends.get(name, one.since_us))
            end_known[name] = max(one.known_us, end_known.get(name, 0))
    for one in moves:
        first[one.encounter] = min(one.since_us, first.get(one.encounter, one.since_us))
    wrong = {name for name, end in ends.items() if name not in begun and end < first.get(name, end)}
    for one in moves:
        known_us = 0 if one.encounter in wrong else end_known.get(one.encounter, 0)
        is_before = (one.encounter, one.since_us) in transfers and one.known_us <= known_us != 0
        if not is_before:
            last[one.encounter] = max(one.since_us, last.get(one.encounter, one.since_us))
    first = discharges(valid, as_of_us=as_of_us, which=min) | first
    for name, stay in begun.items():
        first[name] = stay.admitted_us
        if stay.ended_us is None or stay.ended_us > as_of_us:
            last[name] = max(stay.admitted_us, last.get(name, -1))
        else:
            ends[name] = max(stay.ended_us, ends.get(name, -1))
    return last, ends, first


def _also_ended(end: Placement, moves: Collection[Placement]) -> set[str]:
    """Return the stays that a discharge ends beside its own: those in its bed, where one of the two has no name."""
    if not end.discharged or all(end.encounter and one.encounter for one in moves):
        return set()
    there = occupied_beds(moves, as_of_us=end.since_us)
    return {one.encounter for one in there if one.bed == end.bed and "" in (one.encounter, end.encounter)}


def recently_ended(
    admissions: Mapping[str, Admission], placements: Iterable[Placement], *, since_us: int
) -> frozenset[str]:
    """Return the stays whose end became known since a moment, whatever time it has: it could still be corrected."""
    placements = list(placements)
    names = {name for name, one in admissions.items() if ends_a_stay(one) and one.told_us >= since_us}
    moves = [one for one in placements if not one.discharged]
    for one in placements:
        if ends_a_stay(one) and one.told_us >= since_us:
            names |= {one.encounter} | _also_ended(one, moves)
    return frozenset(names)


def current_stay(
    admissions: Mapping[str, Admission], placements: Collection[Placement], *, as_of_us: int
) -> CurrentStay | None:
    """Return the stay that a patient is in, or was in last; None: none is known.

    A patient is gone when no stay is open. A procedure or a visit to a clinic that ended within a stay ends only
    itself. A patient who was moved to a place without a bed is still in the stay. Of several open stays the one begun
    last counts; of stays known by beds alone one with a bed comes first. A bed that an admission message reports also
    shows a stay; a bed that an ended stay reported is left with that stay.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
        as_of_us: the moment; what began later is not looked at.
    """
    last, ends, first = _bounds(admissions, placements, as_of_us)
    over = {name: end for name, end in ends.items() if last.get(name, -1) <= end}
    goes_on = [one for one in placements if one.encounter not in over and one.since_us > ends.get(one.encounter, -1)]
    place = current_bed(goes_on, as_of_us=as_of_us)
    still_open = last.keys() - over.keys()
    admitted = {name for name in still_open & admissions.keys() if not _is_ended(admissions[name], as_of_us)}
    if admitted:
        name = max(admitted, key=lambda name: (first[name], name))
        return CurrentStay(name, first[name], None, place, frozenset(still_open))
    if place is not None:
        return CurrentStay(place.encounter, place.since_us, None, place, frozenset(still_open))
    if still_open:
        name = max(still_open, key=lambda name: (last[name], name))
        moves = [one.since_us for one in placements if one.encounter == name and one.status != "entered-in-error"]
        begun_us = min(since_us for since_us in moves if since_us > ends.get(name, -1))
        return CurrentStay(name, begun_us, None, None, frozenset(still_open))
    if not over:
        return None
    name = max(over, key=lambda name: (over[name], name))
    last_us = over[name]
    until_then = [one for one in placements if over.get(one.encounter, last_us) >= last_us]
    return CurrentStay(name, first[name], last_us, current_bed(until_then, as_of_us=last_us - 1), frozenset({name}))


def expired_beds(
    admissions: Mapping[str, Admission],
    placements: Mapping[str, Placement],
    over: Mapping[str, int],
    horizon_us: int,
    *,
    kept: frozenset[str],
    as_of_us: int,
) -> set[str]:
    """Return the keys of placements that can be deleted.

    The bed that a stay's own record gives is kept as long as the stay, even where it gives none: an older version of
    the record can still come.

    Args:
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient, by their keys.
        over: the stays that are being deleted, with their ends.
        horizon_us: for a stay without a bed since then no end is expected any more.
        kept: stays that are kept whatever is known of their beds.
        as_of_us: now.
    """
    gone = {key for key, one in placements.items() if one.encounter in over and one.since_us <= as_of_us}
    # Earlier releases kept the bed of an Encounter that they had deleted.
    gone |= {
        key for key, one in placements.items() if key == bed_key(one.encounter) and one.encounter not in admissions
    }
    rest = {key: one for key, one in placements.items() if key not in gone}
    recent = {one.encounter for one in rest.values() if one.since_us >= horizon_us}
    recent |= kept | {one.encounter for one in occupied_beds(rest.values(), as_of_us=as_of_us)}
    if recent and any(not one.encounter for one in rest.values()):  # a placement that names no stay could be of any
        return gone
    return gone | {key for key, one in rest.items() if one.encounter not in recent and key != bed_key(one.encounter)}


def _is_ended(stay: Admission, as_of_us: int) -> bool:
    return stay.admitted_us > as_of_us or (stay.ended_us is not None and stay.ended_us <= as_of_us)


def same_stay(
    encounter: str, admissions: Mapping[str, Admission], placements: Iterable[Placement]
) -> HospitalStay | None:
    """Return the hospital stay that a stay is part of, the last one of several; None: it is not known.

    Args:
        encounter: the stay's pseudonym; empty: beds without an encounter.
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    with_name = [one for one in hospital_stays(admissions, placements) if encounter in one.names]
    return max(with_name, key=lambda one: (one.end_us, one.begin_us), default=None)


def applies_to_stay(
    decided_for: str, at_us: int, encounter: str, admissions: Mapping[str, Admission], placements: Iterable[Placement]
) -> bool:
    """Return whether a decision that was made for one stay applies to another one.

    A decision applies to the whole hospital stay: to that of the stay that it names, and to that of its time, because
    the named stay could have ended before without a message about it. A decision made while no stay was known applies
    to all that follows until a hospital stay has ended. Where no stay is known now, a decision made for a stay applies
    until that stay has ended.

    Args:
        decided_for: pseudonym of the stay that the decision names; empty: none was known.
        at_us: when the decision was made.
        encounter: pseudonym of the stay that is asked about; empty: none is known.
        admissions: of the patient, by the stay's pseudonym.
        placements: of the patient.
    """
    visits = {name for name, one in admissions.items() if one.outpatient}
    if decided_for == encounter != "" and decided_for not in visits:
        return True
    placements = list(placements)
    now = same_stay(encounter, admissions, placements)
    stays = hospital_stays(admissions, placements)
    others = [one for one in stays if one != now and not one.names <= visits]
    elsewhere = decided_for in visits and any(one.lasts(at_us) for one in others)
    if now is not None and decided_for and decided_for in now.names:  # a visit's name can be in several stays
        return not elsewhere
    # A series of visits can last through several hospital stays: a decision made in one of those is not the visits'.
    through = now is not None and now.names <= visits and (elsewhere or decided_for not in {"", *visits})
    if now is not None and now.lasts(at_us) and not through:
        return True
    if decided_for:
        named = same_stay(decided_for, admissions, placements)
        return not encounter and now is None and (named is None or named.end_us == FOR_EVER)
    begun_us = at_us if now is None else now.begin_us
    return not any(at_us <= one.end_us <= begun_us for one in stays if one != now)
