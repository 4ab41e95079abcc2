"""The online store's current values are those of a plain definition, whatever was stored first."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.online_store.values import ROW, current, stage_of
from vitalake.clinical.statuses import CORRECTED, WITHDRAWN

STAGE = {"preliminary": 1, "final": 2, "corrected": 3, "cancelled": 4, "entered-in-error": 5}


@dataclass(frozen=True)
class Fact:
    """A row of one patient, told of by a message or by what is known of its device."""

    thing: int
    version: int
    status: str
    known: int
    attribution: int = 0
    value: float = 70.0

    def is_taken(self) -> bool:
        """Return whether it says that the value is not this patient's, after all."""
        return self.attribution > 0 and self.attribution % 2 == 0

    def counts(self) -> tuple[int, int]:
        """Return what is highest of the row that counts."""
        return (STAGE[self.status], self.known if self.status in CORRECTED else -self.known)


STATUS = st.sampled_from([*STAGE])
VALUE = st.sampled_from([70.0, 84.0, 97.0, float("nan")])
NAMED = st.builds(Fact, st.integers(1, 3), st.integers(0, 1), STATUS, st.integers(0, 4), value=VALUE)
OWNED = st.builds(
    lambda thing, version, status, known, number: Fact(
        thing, version, "entered-in-error" if number % 2 == 0 else status, known, number
    ),
    st.integers(1, 3), st.integers(0, 1), STATUS, st.integers(0, 4), st.integers(1, 6),
)  # fmt: skip


def _is_lost(fact: Fact, facts: list[Fact]) -> bool:
    """Return whether by later knowledge a value is not this patient's."""
    taken = [f for f in facts if f.is_taken() and (f.thing, f.version) == (fact.thing, fact.version)]
    return fact.attribution > 0 and any((fact.known, fact.attribution) <= (f.known, f.attribution) for f in taken)


def plainly(facts: list[Fact]) -> dict[int, tuple[str, int, set[float]]]:
    """Return status and time of the value of each thing that counts, and the numbers that are said of it."""
    found = {}
    for thing in {fact.thing for fact in facts}:
        mine = [fact for fact in facts if fact.thing == thing and not _is_lost(fact, facts)]
        mine = [fact for fact in mine if fact.version == max(f.version for f in mine)]
        left = [fact for fact in mine if not fact.attribution] or mine
        best = max(left, key=Fact.counts, default=None)
        if best is not None and best.status not in WITHDRAWN:
            alike = [f for f in left if f.status == best.status and not f.attribution]
            alike = [] if best.status in CORRECTED else alike
            found[thing] = (best.status, best.known, {f.value for f in alike if np.isfinite(f.value)})
    return found


@given(facts=st.lists(NAMED | OWNED, max_size=12), chance=st.randoms(use_true_random=False))
@example(facts=[Fact(1, 0, "final", 1), Fact(1, 0, "preliminary", 0)], chance=random.Random(1))
@example(facts=[Fact(1, 0, "entered-in-error", 1), Fact(1, 0, "final", 0)], chance=random.Random(1))
def test_what_was_stored_first_does_not_matter(facts: list[Fact], chance: random.Random) -> None:
    for _ in range(2):
        chance.shuffle(facts)
        rows = np.zeros(len(facts), ROW)
        for name, values in {
            "id": [fact.thing for fact in facts],
            "version": [fact.version for fact in facts],
            "stage": [stage_of(fact.status) for fact in facts],
            "available_us": [fact.known for fact in facts],
            "attribution": [fact.attribution for fact in facts],
            "value": [fact.value for fact in facts],
        }.items():
            rows[name] = values
        kept = current(rows)
        of = {stage_of(status): status for status in STAGE}
        expected = plainly(facts)
        assert {*kept["id"].tolist()} == {*expected}
        for thing, (status, known, numbers) in expected.items():
            mine = kept[kept["id"] == thing]
            assert {of[int(row["stage"])] for row in mine} == {status}
            assert known in mine["available_us"].tolist()
            said = {value for value in mine["value"].tolist() if np.isfinite(value)}
            assert said >= numbers
            assert len(mine) <= max(1, len(numbers) + 1)
            assert status in CORRECTED or any(fact.attribution for fact in facts) or said == numbers
