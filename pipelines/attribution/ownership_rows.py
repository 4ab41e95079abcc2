"""The rows of a value: what is missing so that every view says whose it is, as it was known over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.attribution.timeline import Owner, Step


@dataclass(frozen=True, slots=True)
class OwnershipRow:
    """One row to write of an observation.

    Attributes:
        owner: whose row.
        available_us: from when it is known.
        attribution: which of several of one moment, or of moments that are published as one, is current: the highest.
        withdrawn: the row takes back what was said of this owner.
    """

    owner: Owner
    available_us: int
    attribution: int
    withdrawn: bool


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


def ownership_rows(
    steps: Sequence[Step], available_us: int, *, facts: int, written: Iterable[OwnershipRow] = ()
) -> list[OwnershipRow]:
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
    before: dict[int, list[OwnershipRow]] = defaultdict(list)
    for row in sorted(written, key=lambda row: row.attribution):
        before[row.available_us].append(row)
    wanted = {step.since_us: step.owner for step in seen_from(steps, available_us)}
    if is_forgotten(steps):
        wanted = {}
    missing: list[OwnershipRow] = []
    want: Owner | None = None
    shown: dict[str | None, OwnershipRow] = {}  # of each patient the last row; the last one of all wins
    for moment in sorted(wanted.keys() | before.keys()):
        want = wanted.get(moment, want)
        want = None if want is None or want.patient is None else want  # who is forgotten is not named
        there = before.get(moment, [])
        for row in there:
            shown.pop(row.owner.patient, None)
            shown[row.owner.patient] = row
        # Higher than at earlier moments, too: two of one second are published as one.
        number = 2 * max([facts, *(row.attribution // 2 + 1 for row in shown.values())])
        for row in _lacking(shown, want, moment, number):
            missing.append(row)
            shown.pop(row.owner.patient, None)
            shown[row.owner.patient] = row
    return missing


def _lacking(
    shown: Mapping[str | None, OwnershipRow], want: Owner | None, moment: int, number: int
) -> list[OwnershipRow]:
    """Return the rows that make the right owner's row, or none, the last one at a moment."""
    patient = None if want is None else want.patient
    rows = [
        OwnershipRow(row.owner, moment, number, withdrawn=True)
        for row in shown.values()
        if not row.withdrawn and row.owner.patient != patient
    ]
    last = [*shown.values()][-1] if shown else None
    if want is not None and (rows or last is None or last.withdrawn or last.owner != want):
        rows.append(OwnershipRow(want, moment, number + 1, withdrawn=False))
    return rows


def is_forgotten(steps: Sequence[Step]) -> bool:
    """Return whether it is known last to be a patient's who was forgotten: then it was nobody else's at any time."""
    last = steps[-1].owner if steps else None
    return last is not None and last.patient is None
