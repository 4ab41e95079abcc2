"""Whose a device's value of one moment is, as it was known over time: the pure kernel of attribution."""

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
    """Whose it is; what stands here is identified and is not shown.

    Attributes:
        patient: the patient's source id; None: a patient who was forgotten.
        encounter: the stay's, where the association says so.
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
        association: names the association over its versions.
        version: a higher one replaces a lower one; of one that was told twice the later stage, then what was told last.
        owner: who the device is with.
        valid_from, valid_to: from when, and until when, exclusive.
        status: ended: that from valid_from on its owner, or their stay, is no longer where they came before.
        available_us: when it could be known.
        merged: the number that its owner's patient had too: whoever resolves to it is its owner; no device is meant.
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
        """Return whether it says of a moment whose the device is."""
        return self.status == "active" and self.merged is None and self.valid_from <= at_us < self.valid_to

    def __repr__(self) -> str:
        """Return no identifier."""
        return "Fact(…)"


@dataclass(frozen=True, slots=True)
class Step:
    """From ``since_us`` on it is known that it is ``owner``'s; None: nobody's."""

    since_us: int
    owner: Owner | None


def distinct(facts: Iterable[Fact]) -> list[Fact]:
    """Return each fact once, however often it was told; the order in which facts came plays no part."""
    return sorted(set(facts), key=lambda fact: (fact.available_us, fact.association, _rank(fact)))


def _rank(fact: Fact) -> tuple[int, int, int, int, int, str, str, str]:
    """Return what is highest of the fact of an association that counts; of what is told at once its content decides."""
    owner = fact.owner
    return (
        fact.version, _STAGE[fact.status], fact.available_us, fact.valid_from, fact.valid_to, owner.patient or "",
        owner.encounter or "", fact.merged or "",
    )  # fmt: skip


def resolve(facts: Iterable[Fact], at_us: int, known_us: int) -> Owner | None:
    """Return whose a moment's value is as known at a time; None: nobody's. What steps_at says, said plainly.

    Of every association the highest version known counts. Of those that hold at the moment the one counts that began
    last, of one moment the one that was told last. If its owner is known to have left since, it is nobody's: who was
    there before does not come back by that. Who was merged into somebody else is them.
    """
    latest: dict[bytes, Fact] = {}
    for fact in facts:
        held = latest.get(fact.association)
        if fact.available_us <= known_us and (held is None or _rank(fact) > _rank(held)):
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
    """Return what is highest of what began last; of what is of one moment, because clocks are coarse, was told last."""
    return fact.valid_from, fact.version, fact.available_us


def _is_merge(fact: Fact) -> bool:
    return fact.merged is not None and fact.status == "active"


def _merging(fact: Fact) -> tuple[int, bytes]:
    return fact.valid_from, fact.association


def _merged(owner: Owner, merges: Mapping[str | None, Fact]) -> Owner:
    """Return who an owner is by now; a ring of merges leads nowhere, and ends."""
    for _ in range(len(merges)):
        if owner.patient is None or owner.patient not in merges:
            break
        owner = Owner(merges[owner.patient].owner.patient, owner.encounter)
    return owner


def _same(one: Owner, other: Owner, merges: Mapping[str | None, Fact]) -> bool:
    """Return whether two owners are one stay, or one patient where a stay is not named."""
    if one.encounter is not None and other.encounter is not None:
        return one.encounter == other.encounter
    return _merged(one, merges).patient == _merged(other, merges).patient


# -- over what was known -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """A fact while it is the one that counts of its association, of those that are known: from begin until end."""

    fact: Fact
    begin: int
    end: int


def _while_known(facts: Iterable[Fact]) -> list[_Known]:
    """Return the facts that count for a time, each with that time."""
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
    """Return how the owner of one moment's value has changed over what was known; empty: it is nobody's ever.

    It says what ``resolve`` says of every time, in time that grows with the facts and not with their square: a bed
    has thousands.

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
    """Return from when on it was known whose it is, between two times at which no merge becomes known."""
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
        there = times
        for other in ends:
            if _begun(other.fact) >= _begun(k.fact):
                there = _without(there, other.begin, other.end)
        found += [(since, owner) for since, _ in there]
        for since, until in there:
            times = _without(times, since, until)
        found += [(since, None) for since, _ in times]  # known to have left
        open_times = _without(open_times, k.begin, k.end)
    found += [(since, None) for since, _ in open_times]
    return sorted(found, key=lambda entry: entry[0])


def _without(times: Sequence[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """Return stretches of time with one taken out of them."""
    left: list[tuple[int, int]] = []
    for first, last in times:
        if last <= begin or end <= first:
            left.append((first, last))
            continue
        left += [(first, begin)] if first < begin else []
        left += [(end, last)] if end < last else []
    return left
