"""Computes the rows to write so that every view of a value shows its owner as known at that view's time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.attribution.timeline import Owner, Step


@dataclass(frozen=True, slots=True)
class OwnershipRow:
    """One row to write of an observation.

    Attributes:
        owner: the patient and stay that the row names.
        available_us: when this owner became known.
        attribution: of rows that became known at the same moment, or at moments published as the same, the highest one
            is current.
        withdrawn: the row takes the value back from this owner.
    """

    owner: Owner
    available_us: int
    attribution: int
    withdrawn: bool


def seen_from(steps: Sequence[Step], available_us: int) -> Iterator[Step]:
    """Yield the steps that a value takes which itself became known at a time; the first one has an owner."""
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
    """Return the rows that are missing so that every view of an observation shows its owner as known at its time.

    Two rules hold at every time T. Of all rows known at T, the one with the latest ``available_us``, and of several the
    one with the highest attribution, names the owner known at T. Of the rows of every other patient the last one is a
    withdrawal.

    Args:
        steps: see steps_at.
        available_us: when the observation itself became known.
        facts: how many facts of the device are known; later writers know more, and write higher attributions.
        written: the rows already written of this version of the observation.

    Returns:
        The rows to write; empty if nothing is missing.
    """
    before: dict[int, list[OwnershipRow]] = defaultdict(list)
    for row in sorted(written, key=lambda row: row.attribution):
        before[row.available_us].append(row)
    owners = {step.since_us: step.owner for step in seen_from(steps, available_us)}
    if is_forgotten(steps):
        owners = {}
    missing: list[OwnershipRow] = []
    owner: Owner | None = None
    shown: dict[str | None, OwnershipRow] = {}  # the last row of each patient; the last entry is the current row
    for moment in sorted(owners.keys() | before.keys()):
        owner = owners.get(moment, owner)
        owner = None if owner is None or owner.patient is None else owner  # a forgotten patient is not named
        for row in before.get(moment, []):
            shown.pop(row.owner.patient, None)
            shown[row.owner.patient] = row
        # Higher than at earlier moments, too: two moments within one second are published as the same.
        number = 2 * max([facts, *(row.attribution // 2 + 1 for row in shown.values())])
        for row in _missing_at(shown, owner, moment, number):
            missing.append(row)
            shown.pop(row.owner.patient, None)
            shown[row.owner.patient] = row
    return missing


def _missing_at(
    shown: Mapping[str | None, OwnershipRow], owner: Owner | None, moment: int, number: int
) -> list[OwnershipRow]:
    """Return the rows that make the owner's row the current one at a moment, and withdraw those of other patients."""
    patient = None if owner is None else owner.patient
    rows = [
        OwnershipRow(row.owner, moment, number, withdrawn=True)
        for row in shown.values()
        if not row.withdrawn and row.owner.patient != patient
    ]
    last = [*shown.values()][-1] if shown else None
    if owner is not None and (rows or last is None or last.withdrawn or last.owner != owner):
        rows.append(OwnershipRow(owner, moment, number + 1, withdrawn=False))
    return rows


def is_forgotten(steps: Sequence[Step]) -> bool:
    """Return whether the last known owner is a forgotten patient; then no owner is written for any time."""
    last = steps[-1].owner if steps else None
    return last is not None and last.patient is None
