"""Writes facts of patients, each combined with what is stored under the same key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from pipelines.online_store.facts import (
    KINDS,
    ON_THE_WARD,
    Admission,
    Fact,
    GivenFact,
    Person,
    Placement,
    Pregnancy,
    ends_a_stay,
    merged_person,
    until,
    with_first_begin,
    with_first_known,
)
from pipelines.online_store.merges import as_of_survivor
from pipelines.online_store.tables import Tables

_NEAR_US = 300_000_000
"""How much later the same fact can be known according to the lake: the lake has the sender's time, or that of
ingestion."""

_SECOND_US = 1_000_000
_MOST_COUNTED = 1 << 40
"""The highest version that can be a counter. Higher versions are times, of admission messages that of EVN-2: two within
one second are the same event, sent again."""


class FactWriter:
    """Writes facts; the store calls its methods within a transaction.

    It remembers which facts of the store come from the filling that is under way.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables, self._facts, self._patients = tables, tables.facts, tables.patients
        self._filled: dict[tuple[str, str, type], int] = {}

    def without_stored(self, facts: Iterable[GivenFact]) -> list[GivenFact]:
        """Return the facts of which the store does not have this version from elsewhere than this filling."""
        return [fact for fact in facts if not self._is_stored(*fact)]

    def _is_stored(self, patient: str, key: str, version: int, fact: Fact) -> bool:
        name = (patient, key, type(fact))
        if self._filled.get(name) == version:
            return False
        is_stored = self._facts.has(self._tables.merges.survivor(patient), key, version, type(fact))
        if not is_stored:
            self._filled[name] = version
        return is_stored

    def put(self, facts: list[GivenFact], *, wait: bool, again: bool = False) -> None:
        """Store facts; see OnlineStore.put_facts."""
        now_us = self._tables.time.now_us()
        horizon = now_us - self._tables.time.hours_us
        merged = self._tables.merges.survivors({fact[0] for fact in facts})
        facts = [as_of_survivor(fact, merged[fact[0]]) if fact[0] in merged else fact for fact in facts]
        rows = self._facts.put([
            self._facts.row(patient, key, version, end, fact)
            for patient, key, version, fact in self._combined(self._without_past(facts, horizon), now_us, again=again)
            if (
                (end := now_us if wait and self._waits(patient, fact) else until(fact)) >= horizon
                or isinstance(fact, Admission)
            )
            and (wait or not self._waits(patient, fact))
        ])  # fmt: skip
        kinds = {KINDS[kind] for kind in ON_THE_WARD}
        on_the_ward = {row[0] for row in rows if row[1] in kinds}
        patients = {row[0] for row in rows}
        self._patients.touch([one for one in patients if one in on_the_ward or self._patients.has(one)])

    def _waits(self, patient: str, fact: Fact) -> bool:
        if not isinstance(fact, Person | Pregnancy):
            return False
        return not self._patients.has(patient) and not self._facts.of(patient, Admission)

    def _without_past(self, facts: list[GivenFact], horizon: int) -> Iterator[GivenFact]:
        """Yield facts without stays that ended before the horizon and are not in the store, and without their beds."""
        latest: dict[tuple[str, str], tuple[int, Admission]] = {}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission) and version >= latest.get((patient, key), (version, fact))[0]:
                latest[patient, key] = version, fact
        past = {name for name, (_, stay) in latest.items() if until(stay) < horizon}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission):
                left_out = (patient, key) in past and not self._has_stay(patient, key)
            else:
                left_out = isinstance(fact, Placement) and (patient, fact.encounter) in past
            if not left_out:
                yield patient, key, version, fact

    def _has_stay(self, patient: str, encounter: str) -> bool:
        beds = self._facts.of(patient, Placement)
        return encounter in self._facts.of(patient, Admission) or any(
            one.encounter == encounter for one in beds.values()
        )

    def _combined(self, facts: Iterable[GivenFact], now_us: int, *, again: bool) -> Iterator[GivenFact]:
        """Yield facts combined with what is stored under the same key.

        - A Person keeps the properties that the new message leaves out.
        - The end of a stay gets the time at which the store learned of it.
        - A beginning that was clamped to our clock stays as it was stored first.
        """
        people: dict[tuple[str, str], tuple[int, Person]] = {}
        stays: dict[tuple[str, str, type], tuple[int, Admission | Placement]] = {}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission | Placement):
                name = (patient, key, type(fact))
                before = stays.get(name) or self._facts.get(*name)
                if again and before and before[0] == version and not self._replaces(name, version, fact, before[1]):
                    continue
                fact = with_first_times(version, fact, before)
                if ends_a_stay(fact):
                    told_us = before[1].told_us if before and ends_a_stay(before[1]) else now_us
                    fact = msgspec.structs.replace(fact, told_us=told_us)
                if before is None or version >= before[0]:
                    stays[name] = (version, fact)
                    if again:
                        self._filled[name] = version
                yield patient, key, version, fact
                continue
            if not isinstance(fact, Person):
                yield patient, key, version, fact
                continue
            stored_person = people.get((patient, key)) or self._facts.get(patient, key, Person)
            if stored_person is not None:
                is_newer = version >= stored_person[0]
                fact = merged_person([stored_person, (version, fact)] if is_newer else [(version, fact), stored_person])
                version = max(version, stored_person[0])
            people[patient, key] = (version, fact)
            yield patient, key, version, fact

    def _replaces(
        self, name: tuple[str, str, type], version: int, fact: Admission | Placement, before: Admission | Placement
    ) -> bool:
        """Return whether a filling's fact replaces a stored fact of the same version.

        Senders without versions have the same version for all messages. Of two facts of this filling the later one
        counts. A fact that a lane has stored is replaced by one that became known minutes later. Two facts whose
        version is the same time are the same event.
        """
        if self._filled.get(name) == version:
            return fact.known_us >= before.known_us
        return version <= _MOST_COUNTED and fact.known_us > before.known_us + _NEAR_US


def with_first_times(
    version: int, fact: Admission | Placement, before: tuple[int, Admission | Placement] | None
) -> Admission | Placement:
    """Return a fact that was sent again with its first beginning; a bed also with when it first became known.

    Args:
        version: of the fact.
        fact: as it was sent now.
        before: version and fact that are stored under its key; None: none.
    """
    if before is None:
        return fact
    fact = with_first_begin(fact, before[1])
    if isinstance(fact, Admission):
        return fact
    is_resent = version == before[0] or (version > _MOST_COUNTED and version // _SECOND_US == before[0] // _SECOND_US)
    return with_first_known(fact, before[1]) if is_resent else fact
