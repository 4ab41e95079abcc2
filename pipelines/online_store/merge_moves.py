"""Moves everything of a number to the number that it was merged into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.online_store.fact_table import FactRow
from pipelines.online_store.fact_writing import FactWriter, with_first_times
from pipelines.online_store.facts import KINDS, Admission, Decision, Fact, Movement, Person, Placement, Pregnancy
from pipelines.online_store.merges import as_of_survivor
from pipelines.online_store.stays import applies_to_stay, current_stay
from pipelines.online_store.tables import Tables


def move_to_survivor(tables: Tables, writer: FactWriter, *, patient: str, into: str) -> None:
    """Move values, facts and corrections of a number, within a transaction; see OnlineStore.merge.

    Args:
        tables: of the store.
        writer: of its facts.
        patient: pseudonym of the number that was given up.
        into: pseudonym of the number that survives.
    """
    was_there = tables.patients.has(patient)
    tables.blocks.copy(patient, into)
    facts: dict[type, dict[str, tuple[int, Any]]] = {kind: tables.facts.versions(patient, kind) for kind in KINDS}
    moved = _moved_rows(tables, patient, into, facts)
    tables.corrections.move(patient, into)
    tables.delete_all_of([patient])
    tables.meta.begin_generation()
    tables.facts.put(moved)
    tables.patients.touch([into] if was_there or tables.patients.has(into) else [])
    people = [(into, key, version, fact) for key, (version, fact) in facts[Person].items()]
    writer.put([as_of_survivor(fact, into) for fact in people], wait=True)
    decisions = [(into, key, version, fact) for key, (version, fact) in facts[Decision].items()]
    writer.put([fact for fact in decisions if _replaces_decision(tables, *fact)], wait=True)


def _moved_rows(
    tables: Tables, patient: str, into: str, facts: Mapping[type, Mapping[str, tuple[int, Any]]]
) -> list[FactRow]:
    """Return the rows of stays, beds and pregnancies for another number, with the ends of validity that they had.

    A stay that was over before the horizon is still in the store because another one of the same hospital stay goes
    on, and decisions made for it apply. So its age is not checked again.
    """
    ends = tables.facts.ends(patient)
    rows: list[FactRow] = []
    for kind in (Admission, Movement, Placement, Pregnancy):
        for key, (version, fact) in facts[kind].items():
            if isinstance(fact, Admission | Placement):
                before = tables.facts.get(into, key, type(fact))
                fact = with_first_times(version, fact, before)
            rows.append(tables.facts.row(into, key, version, ends[KINDS[kind], key], fact))
    return rows


def _replaces_decision(tables: Tables, patient: str, key: str, _: int, decision: Fact) -> bool:
    """Return whether a decision replaces the one in the store; if so, delete that one."""
    existing = tables.facts.of(patient, Decision).get(key)
    if existing is None or not isinstance(decision, Decision):
        return True
    admissions, beds = tables.facts.of(patient, Admission), [*tables.facts.of(patient, Placement).values()]
    now = current_stay(admissions, beds, as_of_us=tables.time.now_us())
    encounter = now.encounter if now else ""

    def rank(one: Decision) -> tuple[bool, int]:
        return applies_to_stay(one.encounter, one.at_us, encounter, admissions, beds), one.at_us

    replaces = rank(decision) >= rank(existing)
    tables.facts.delete(patient, Decision, [key] if replaces else [])
    return replaces
