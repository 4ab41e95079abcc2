"""The ward shows the same whatever arrived first: messages in any order, numbers merged at any time, a filling."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from pipelines.online_store.facts import (
    DELETED,
    FROM_ADMISSIONS,
    Admission,
    Decision,
    Fact,
    Person,
    Placement,
    Pregnancy,
)
from pipelines.online_store.store import OnlineStore
from vitalake import clock
from vitalake.keys import Key
from vitalake.sealing import Sealer

HOUR, MINUTE, KEPT = 3_600_000_000, 60_000_000, 54
LAST = 40
"""Hours before now of the oldest event: all of it is kept."""

OLD, LEFT = "v1.old", "v1.left"


@dataclass(frozen=True)
class Told:
    """A message of an event, told some time after it, under one of two numbers of a patient.

    Attributes:
        ago: hours before now when it happened.
        late: hours later when it was told.
    """

    patient: str
    stay: str
    what: str
    ago: int
    late: int
    bed: str
    more: int

    @property
    def told_ago(self) -> int:
        """Hours before now when its sender told it."""
        return max(self.ago - self.late, 0)

    def fact(self, now: int, number: int) -> tuple[str, str, int, Fact]:
        """Return what the store is given; versions go with the time of telling."""
        at, known = now - self.ago * HOUR, now - self.told_ago * HOUR
        bed = f"bed:W//{self.bed}"
        made: dict[str, Callable[[], tuple[str, Fact]]] = {
            "bed": lambda: (f"{number}", Placement(self.stay, at, None, bed, "active", known_us=known)),
            "leaves": lambda: (f"{number}", Placement(self.stay, at, None, bed, "ended", known_us=known)),
            "ends": lambda: (f"{number}", Placement(self.stay, at, None, bed, "ended", True, known_us=known)),
            "goes on": lambda: (f"{number}", Placement(self.stay, at, None, "", "active", True, known_us=known)),
            "open": lambda: (self.stay, Admission(at, None, 70, known_us=known)),
            "closed": lambda: (self.stay, Admission(at, min(at + self.more * HOUR, now), 70, known_us=known)),
            "visit": lambda: (self.stay, Admission(at, None, 70, known_us=known, outpatient=True)),
            "pregnant": lambda: (f"{self.stay}/O", Pregnancy(self.stay, at)),
            "not pregnant": lambda: (f"{self.stay}/O", Pregnancy(self.stay, at, over=True)),
            "record": lambda: ("", Person("female", f"{1930 + self.ago}")),
            "beside": lambda: (FROM_ADMISSIONS, Person("unknown", f"{1980 + self.ago}")),
            "died": lambda: ("", Person("unknown", died="yes")),
            "died beside": lambda: (FROM_ADMISSIONS, Person("unknown", died="yes")),
            "lives beside": lambda: (FROM_ADMISSIONS, Person("unknown", died=DELETED)),
        }
        key, fact = made[self.what]()
        return self.patient, key, known + number, fact


WHAT = ["bed", "leaves", "ends", "goes on", "open", "closed", "visit", "pregnant", "not pregnant"]
SAID = ["record", "beside", "died", "died beside", "lives beside"]
TOLD = st.lists(
    st.builds(
        Told,
        st.sampled_from([OLD, LEFT]),
        st.sampled_from(["E", "D", ""]),
        st.sampled_from(WHAT + SAID),
        st.integers(1, LAST),
        st.integers(0, 30),
        st.sampled_from(["A", "B"]),
        st.integers(0, LAST),
    ).filter(lambda one: one.stay or one.what not in ("open", "closed", "visit")),
    min_size=1,
    max_size=7,
)


@contextmanager
def _store() -> Iterator[OnlineStore]:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(OnlineStore(Path(folder) / "care.db", Sealer(Key("care", "v1", bytes(32))), hours=KEPT)) as store,
    ):
        yield store


def _seen(store: OnlineStore, now: int) -> tuple[object, ...]:
    """Return what the ward is shown of the patient."""
    stay = store.facts.stay(LEFT, as_of_us=now)
    decided = store.facts.decisions(LEFT, encounter=stay.encounter if stay else "")
    # Without a stay nobody is on the board whose record waits, and a record is dropped that does not.
    person = store.facts.person(LEFT) if stay else None
    return stay, decided, person, store.facts.stay(OLD, as_of_us=now), store.patients.has(LEFT)


@settings(max_examples=150)
@given(
    told=TOLD,
    order=st.randoms(use_true_random=False),
    merged=st.integers(0, 7),
    decided=st.integers(0, 60),
    of=st.sampled_from([OLD, LEFT]),
    stay=st.sampled_from(["E", "D", ""]),
    again=st.integers(0, 7),
)
def test_the_ward_is_the_same_whatever_arrived_first(
    told: Sequence[Told], order: object, merged: int, decided: int, of: str, stay: str, again: int
) -> None:
    now = clock.now_us()
    facts = [one.fact(now, number) for number, one in enumerate(told)]
    decision = Decision("pregnancy", True, stay, "somebody", now - decided * HOUR, "test-or-scan")
    said = (decision.kind, decision.at_us, decision)
    with _store() as store:
        store.merge(OLD, LEFT, version=1)
        for fact in sorted(facts, key=lambda fact: fact[2]):
            store.put_facts([fact], wait=True)
        store.put_facts([(LEFT, *said)], wait=True)
        expected = _seen(store, now)
    mixed = list(facts)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    with _store() as store:
        store.put_facts([(of, *said)], wait=True)
        for number in range(len(mixed) + 1):
            if number == min(merged, len(mixed)):
                store.merge(OLD, LEFT, version=1)
            for fact in mixed[number : number + 1]:
                store.put_facts([fact], wait=True)
            if number == again:
                store.put_facts([_later(fact) for fact in mixed[:number]], wait=True, again=True)
        for fact in facts[:again]:
            store.put_facts([_later(fact)], wait=True)
        assert _seen(store, now) == expected


def _later(told: tuple[str, str, int, Fact]) -> tuple[str, str, int, Fact]:
    """Return a fact as it is read out of the lake, which does not know when its sender knew it."""
    patient, key, version, fact = told
    if isinstance(fact, Admission | Placement):
        return patient, key, version, structs.replace(fact, known_us=fact.known_us + 4 * MINUTE)
    return told
