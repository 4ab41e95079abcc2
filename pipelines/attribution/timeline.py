"""Computes the owner of a device's value of one moment, as it was known over time; the pure kernel of attribution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from vitalake.clinical.statuses import STAGES

OPEN_END = (1 << 63) - 1
"""End of an association that has not ended."""

_EVER = -(1 << 63)
_STAGE = {status: stage for stage, several in enumerate(STAGES) for status in several}


@dataclass(frozen=True, slots=True)
class Owner:
    """The patient, and the stay if known, that a value belongs to. Both are identifying and are not shown.

    Attributes:
        patient: the patient's source id; None: a patient who was forgotten.
        encounter: the stay's source id, if the association gives it.
    """

    patient: str | None
    encounter: str | None = None

    def __repr__(self) -> str:
        """Return no identifier."""
        return "Owner(…)"


Status = Literal["active", "ended", "entered-in-error"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One version of an association of one device; times in microseconds since 1970.

    Attributes:
        association: id of the association, the same for all its versions.
        version: a higher version replaces a lower one. Of the same version the later stage counts, then the fact that
            became known last.
        owner: who the device is with.
        valid_from, valid_to: the beginning and the end, exclusive.
        status: ended: from ``valid_from`` on the owner, or the owner's stay, has left the place where it was before.
        available_us: when it became known.
        merged: set for a merge of patient numbers, which is of no device: this number was merged into the owner's, and
            its values are the owner's.
    """

    association: bytes
    version: int
    owner: Owner
    valid_from: int
    valid_to: int
    status: Status
    available_us: int
    merged: str | None = None

    def holds(self, at_us: int) -> bool:
        """Return whether the fact gives the device an owner at a moment."""
        return self.status == "active" and self.merged is None and self.valid_from <= at_us < self.valid_to

    def __repr__(self) -> str:
        """Return no identifier."""
        return "Fact(…)"


@dataclass(frozen=True, slots=True)
class Step:
    """From ``since_us`` on the value is known to be ``owner``'s; None: it is known to have no owner."""

    since_us: int
    owner: Owner | None


def distinct(facts: Iterable[Fact]) -> list[Fact]:
    """Return each fact once, in an order that does not depend on the order in which they came."""
    return sorted(set(facts), key=lambda fact: (fact.available_us, fact.association, _rank(fact)))


def _rank(fact: Fact) -> tuple[int, int, int, int, int, str, str, str]:
    """Return the rank of a fact: the highest fact of an association counts; of simultaneous ones content decides."""
    owner = fact.owner
    return (
        fact.version, _STAGE[fact.status], fact.available_us, fact.valid_from, fact.valid_to, owner.patient or "",
        owner.encounter or "", fact.merged or "",
    )  # fmt: skip


def resolve(facts: Iterable[Fact], at_us: int, known_us: int) -> Owner | None:
    """Return the owner of the value of a moment, as known at a time; None: it has none.

    This is the plain definition of what steps_at computes efficiently:

    - Of every association the highest known version counts.
    - Of the associations that are valid at the moment the one that began last counts, and of several that began at the
      same moment the one that became known last.
    - If its owner is known to have left since, the value has no owner. The previous owner does not come back.
    - A patient whose number was merged into another one is that other patient.
    """
    latest: dict[bytes, Fact] = {}
    for fact in facts:
        best = latest.get(fact.association)
        if fact.available_us <= known_us and (best is None or _rank(fact) > _rank(best)):
            latest[fact.association] = fact
    holding = [fact for fact in latest.values() if fact.holds(at_us)]
    if not holding:
        return None
    merges = {fact.merged: fact for fact in sorted(latest.values(), key=_merging) if _is_merge(fact)}
    last = max(holding, key=lambda fact: (_begun(fact), fact.association))
    ended = [fact for fact in latest.values() if fact.status == "ended" and fact.valid_from <= at_us]
    left = [fact for fact in ended if _begun(fact) >= _begun(last)]
    return None if any(_same(last.owner, fact.owner, merges) for fact in left) else _merged(last.owner, merges)


def _begun(fact: Fact) -> tuple[int, int, int]:
    """Return a key that is highest for the fact that began last.

    Clocks are coarse: of facts that began at the same moment the one that became known last is the highest.
    """
    return fact.valid_from, fact.version, fact.available_us


def _is_merge(fact: Fact) -> bool:
    return fact.merged is not None and fact.status == "active"


def _merging(fact: Fact) -> tuple[int, bytes]:
    return fact.valid_from, fact.association


def _merged(owner: Owner, merges: Mapping[str | None, Fact]) -> Owner:
    """Return an owner after all merges of its number; a ring of merges is followed once around at most."""
    for _ in range(len(merges)):
        if owner.patient is None or owner.patient not in merges:
            break
        owner = Owner(merges[owner.patient].owner.patient, owner.encounter)
    return owner


def _same(one: Owner, other: Owner, merges: Mapping[str | None, Fact]) -> bool:
    """Return whether two owners are the same stay, or the same patient where either names no stay."""
    if one.encounter is not None and other.encounter is not None:
        return one.encounter == other.encounter
    return _merged(one, merges).patient == _merged(other, merges).patient


# -- over all times of knowledge -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """A fact, and the time of knowledge from ``begin`` until ``end`` in which it counts for its association."""

    fact: Fact
    begin: int
    end: int


def _while_known(facts: Iterable[Fact]) -> list[_Known]:
    """Return the facts that count at some time of knowledge, each with that time."""
    versions: dict[bytes, list[Fact]] = defaultdict(list)
    for fact in facts:
        versions[fact.association].append(fact)
    found: list[_Known] = []
    for several in versions.values():
        end = OPEN_END
        for fact in sorted(several, key=_rank, reverse=True):
            if fact.available_us < end:
                found.append(_Known(fact, fact.available_us, end))
                end = fact.available_us
    return found


def steps_at(facts: Sequence[Fact], at_us: int) -> tuple[Step, ...]:
    """Return how the known owner of one moment's value has changed over time; empty: it never had one.

    The result agrees with ``resolve`` at every time. The time it takes grows with the number of facts and not with its
    square: a bed has thousands.

    Args:
        facts: distinct ones of one device, and the merges of its owners.
        at_us: the moment.
    """
    known = _while_known(facts)
    holding = [k for k in known if k.fact.holds(at_us)]
    if not holding:
        return ()
    holding.sort(key=lambda k: (_begun(k.fact), k.fact.association), reverse=True)
    ended = [k for k in known if k.fact.status == "ended" and k.fact.valid_from <= at_us]
    merging = sorted((k for k in known if _is_merge(k.fact)), key=lambda k: _merging(k.fact))
    bounds = sorted({_EVER, OPEN_END, *(k.begin for k in merging), *(k.end for k in merging)})
    steps: list[Step] = []
    for begin, end in pairwise(bounds):
        merges: dict[str | None, Fact] = {k.fact.merged: k.fact for k in merging if k.begin <= begin < k.end}
        for since, owner in _owners(holding, ended, merges, begin, end):
            if owner != (steps[-1].owner if steps else None):
                steps.append(Step(since, owner))
    return tuple(steps)


def _owners(
    holding: Sequence[_Known], ended: Sequence[_Known], merges: Mapping[str | None, Fact], begin: int, end: int
) -> list[tuple[int, Owner | None]]:
    """Return the owners and since when each was known, within a time in which the known merges do not change."""
    of_stay: dict[object, list[_Known]] = defaultdict(list)
    for k in ended:
        patient = _merged(k.fact.owner, merges).patient
        of_stay["patient", patient, k.fact.owner.encounter is None].append(k)
        of_stay["encounter", k.fact.owner.encounter].append(k)
    open_times = [(begin, end)]
    earliest = [*accumulate((k.begin for k in reversed(holding)), min)][::-1]
    found: list[tuple[int, Owner | None]] = []
    for k, first in zip(holding, earliest, strict=True):
        if not open_times or open_times[-1][1] <= first:
            break
        owner = _merged(k.fact.owner, merges)
        ends = of_stay.get(("patient", owner.patient, True), [])
        if owner.encounter is None:
            ends = ends + of_stay.get(("patient", owner.patient, False), [])
        else:
            ends = ends + of_stay.get(("encounter", owner.encounter), [])
        times = [(max(k.begin, a), min(k.end, b)) for a, b in open_times if max(k.begin, a) < min(k.end, b)]
        present = times
        for other in ends:
            if _begun(other.fact) >= _begun(k.fact):
                present = _without(present, other.begin, other.end)
        found += [(since, owner) for since, _ in present]
        for since, until in present:
            times = _without(times, since, until)
        found += [(since, None) for since, _ in times]  # known to have left
        open_times = _without(open_times, k.begin, k.end)
    found += [(since, None) for since, _ in open_times]
    return sorted(found, key=lambda entry: entry[0])


def _without(times: Sequence[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """Return intervals of time with another interval cut out of them."""
    left: list[tuple[int, int]] = []
    for first, last in times:
        if last <= begin or end <= first:
            left.append((first, last))
            continue
        left += [(first, begin)] if first < begin else []
        left += [(end, last)] if end < last else []
    return left
