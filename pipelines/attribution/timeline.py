"""Whose a device's value of one moment is, as it was known over time: the pure kernel of attribution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

OPEN_END = (1 << 63) - 1
"""End of an association that has not ended."""


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


@dataclass(frozen=True, slots=True)
class Fact:
    """One version of an association of one device; times in microseconds since 1970.

    Attributes:
        association: names the association over its versions.
        version: a higher one replaces a lower one.
        owner: who the device is with.
        valid_from, valid_to: from when, and until when, exclusive.
        active: False: it was entered in error.
        available_us: when it could be known.
        ends: it says that the device is no longer with its owner from ``valid_from`` on: who tells of a leaving does
            not always know when it began, so that it cannot name the association it ends.
    """

    association: bytes
    version: int
    owner: Owner
    valid_from: int
    valid_to: int
    active: bool
    available_us: int
    ends: bool = False

    def holds(self, at_us: int) -> bool:
        """Return whether it says of a moment whose the device is."""
        return self.active and self.valid_from <= at_us < self.valid_to


@dataclass(frozen=True, slots=True)
class Step:
    """From ``since_us`` on it is known that it is ``owner``'s; None: nobody's."""

    since_us: int
    owner: Owner | None


@dataclass(frozen=True, slots=True)
class Emission:
    """One row to write of an observation.

    Attributes:
        owner: whose row.
        available_us: from when it is known.
        attribution: which of several of one moment is current: the highest.
        withdrawn: the row takes back what was said of this owner.
    """

    owner: Owner
    available_us: int
    attribution: int
    withdrawn: bool


def distinct(facts: Iterable[Fact]) -> list[Fact]:
    """Return each version of each association once: of several, the one that was known first, then any but the same.

    The order in which facts came plays no part.
    """
    kept: dict[tuple[bytes, int], Fact] = {}
    for fact in facts:
        key = (fact.association, fact.version)
        if key not in kept or _order(fact) < _order(kept[key]):
            kept[key] = fact
    return sorted(kept.values(), key=lambda fact: (fact.available_us, fact.association, fact.version))


def _order(fact: Fact) -> tuple[int, bool, bool, int, int, str, str]:
    owner = fact.owner
    return (
        fact.available_us, fact.active, fact.ends, fact.valid_from, fact.valid_to, owner.patient or "",
        owner.encounter or "",
    )  # fmt: skip


def resolve(facts: Iterable[Fact], at_us: int, known_us: int) -> Owner | None:
    """Return whose a moment's value is as known at a time; None: nobody's.

    Of every association the highest version known counts; of those that hold, the one that began last, then the
    highest name; unless its own patient's leaving is known, behind its beginning.
    """
    latest: dict[bytes, Fact] = {}
    for fact in facts:
        held = latest.get(fact.association)
        if fact.available_us <= known_us and (held is None or fact.version > held.version):
            latest[fact.association] = fact
    holding = [fact for fact in latest.values() if fact.holds(at_us)]
    being = [fact for fact in holding if not fact.ends]
    if not being:
        return None
    last = max(being, key=lambda fact: (fact.valid_from, fact.association))
    leaving = [fact for fact in holding if fact.ends and fact.owner.patient == last.owner.patient]
    return None if any(fact.valid_from > last.valid_from for fact in leaving) else last.owner


def steps_at(facts: Sequence[Fact], at_us: int) -> tuple[Step, ...]:
    """Return how the owner of one moment's value has changed over what was known; empty: it is nobody's ever.

    Args:
        facts: distinct ones of one device, at least all versions of the associations of which one holds that moment.
        at_us: the moment.
    """
    meant = {fact.association for fact in facts if fact.holds(at_us)}
    relevant = [fact for fact in facts if fact.association in meant]
    steps: list[Step] = []
    for since in sorted({fact.available_us for fact in relevant}):
        owner = resolve(relevant, at_us, since)
        if owner != (steps[-1].owner if steps else None):
            steps.append(Step(since, owner))
    return tuple(steps)


def seen_from(steps: Sequence[Step], available_us: int) -> Iterator[Step]:
    """Yield the steps of a value that could itself be known from a time only; the first one has an owner."""
    owner: Owner | None = None
    first = 0
    for first, step in enumerate(steps):  # noqa: B007 - used behind the loop
        if step.since_us > available_us:
            break
        owner = step.owner
    else:
        first = len(steps)
    if owner is not None:
        yield Step(available_us, owner)
    for step in steps[first:]:
        if owner is not None or step.owner is not None:
            yield step
        owner = step.owner


def emissions(
    steps: Sequence[Step], available_us: int, *, facts: int, written: Iterable[Emission] = ()
) -> list[Emission]:
    """Return the rows that are missing so that every view of an observation says what is known of its owner.

    At every time T the row with the latest ``available_us`` up to T, of several that with the highest attribution,
    must be the owner's as known at T; and so must, of every patient's own rows, the last one take back what is not.

    Args:
        steps: see steps_at.
        available_us: when the observation itself could be known.
        facts: how many of the device are known: later writers write higher numbers.
        written: what was written of this version of the observation.

    Returns:
        What to write; nothing where all is as it should be.
    """
    before: dict[int, list[Emission]] = defaultdict(list)
    for row in sorted(written, key=lambda row: row.attribution):
        before[row.available_us].append(row)
    wanted = {step.since_us: _nameable(step.owner) for step in seen_from(steps, available_us)}
    missing: list[Emission] = []
    want: Owner | None = None
    shown: dict[str | None, Emission] = {}  # of each patient the last row; the last one of all wins
    for moment in sorted(wanted.keys() | before.keys()):
        want = wanted.get(moment, want)
        there = before.get(moment, [])
        for row in there:
            shown.pop(row.owner.patient, None)
            shown[row.owner.patient] = row
        number = 2 * max([facts, *(row.attribution // 2 + 1 for row in there)])
        for row in _lacking(shown, want, moment, number):
            missing.append(row)
            shown.pop(row.owner.patient, None)
            shown[row.owner.patient] = row
    return missing


def _lacking(shown: Mapping[str | None, Emission], want: Owner | None, moment: int, number: int) -> list[Emission]:
    """Return the rows that make the right owner's row, or none, the last one at a moment."""
    patient = None if want is None else want.patient
    rows = [
        Emission(row.owner, moment, number, withdrawn=True)
        for row in shown.values()
        if not row.withdrawn and row.owner.patient != patient
    ]
    last = [*shown.values()][-1] if shown else None
    if want is not None and (rows or last is None or last.withdrawn or last.owner != want):
        rows.append(Emission(want, moment, number + 1, withdrawn=False))
    return rows


def _nameable(owner: Owner | None) -> Owner | None:
    return None if owner is None or owner.patient is None else owner
