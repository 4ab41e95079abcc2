"""Takes what messages say of patients to the online store and the vault: sex, birth, death, and their identities."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import pyarrow as pa
from msgspec.structs import replace as replace_in

from governance.vault import Identity, Vault
from pipelines.core.poll import Outcome
from pipelines.formats.base import WAREHOUSE
from pipelines.formats.shared.records import BORN_IN, DIED_TOLD, SEX_TOLD
from pipelines.intake.online_feed.columns import values_of
from pipelines.intake.online_feed.destination import Destination
from pipelines.online_store.facts import DELETED, FROM_ADMISSIONS, FROM_RESULTS, NOT_STATED, Fact, GivenFact, Person

_BEFORE_ALL = -1
"""The version of an identity that only an admission message has given; every version of the own record is higher."""

_SAID_SECONDS, _MOST_SAID = 600.0, 100_000
"""For how long a Person from result messages is not stored again, and for how many patients that is remembered."""


class People:
    """Takes what patients' own records, admission messages and result messages say of patients."""

    def __init__(self, destination: Destination, vault: Vault) -> None:
        self._destination, self._vault = destination, vault
        self._said_since = time.monotonic()

    def take_records(self, outcome: Outcome) -> None:
        """Store what patients' own records say, also who they are, in the vault.

        Raises:
            ServiceUnavailable: online store or vault cannot be written.
        """
        rows = outcome.rows
        given = {name: rows[name].to_pylist() for name in ("name", "mrn", "address") if name in rows.schema.names}
        days, parts = (values_of(rows, name) for name in ("birth_date", BORN_IN))
        born = [str(day or part or "") for day, part in zip(days, parts, strict=True)]
        died = values_of(rows, DIED_TOLD)
        facts: list[Fact] = [
            Person(sex or "unknown", day, died=end or "")
            for sex, day, end in zip(rows["sex"].to_pylist(), born, died, strict=True)
        ]
        self._destination.put(rows, [""] * rows.num_rows, facts, wait=outcome.poll.format != WAREHOUSE)
        tokens = self._destination.tokens("patient_id", rows["patient_id"])
        looked_up = outcome.poll.format != WAREHOUSE
        births = [
            self._born(token) if looked_up and not day else (day or None, None)
            for token, day in zip(tokens, born, strict=True)
        ]
        identities = [
            Identity(source_id, birth_date=day, born_by=by, **{name: given[name][i] for name in given})
            for i, (source_id, (day, by)) in enumerate(zip(rows["patient_id"].to_pylist(), births, strict=True))
        ]
        self._vault.put(zip(tokens, rows["version"].to_pylist(), identities, strict=True))

    def _born(self, token: str) -> tuple[str | None, int | None]:
        """Return the date of birth in the vault, and the version that gave it (Identity), if the record has no date."""
        identity = self._vault.look_up(token)
        return (identity.birth_date, identity.born_by) if identity is not None else (None, None)

    def take_admissions(self, rows: pa.RecordBatch) -> None:
        """Store what admission messages say of their patients; a date of birth also goes to the vault.

        The lake has no column for it, and a store that is filled again must know who is a child. In the vault it has a
        lower version than every record of the patient's own.
        """
        born, sexes, deaths = (values_of(rows, name) for name in (BORN_IN, SEX_TOLD, DIED_TOLD))
        tokens, versions = self._destination.tokens("patient_id", rows["patient_id"]), rows["version"].to_pylist()
        given = [*zip(tokens, rows["patient_id"].to_pylist(), versions, born, sexes, deaths, strict=True)]
        days = {one[0]: one for one in sorted(given, key=lambda one: one[2]) if one[3]}
        self._keep_births((token, _BEFORE_ALL, source_id, day) for token, source_id, _, day, *_ in days.values())
        self._destination.put_people(
            [
                (token, FROM_ADMISSIONS, version, Person(sex or "unknown", day or "", died=died or ""))
                for token, _, version, day, sex, died in given
                if day or sex or died
            ]
        )
        self.look_up(tokens)

    def take_results(self, given: Sequence[tuple[str, int, Person]]) -> None:
        """Store what result messages say of their patients, once in a while for each: monitors send it every minute."""
        destination = self._destination
        if time.monotonic() - self._said_since > _SAID_SECONDS or len(destination.said) > _MOST_SAID:
            destination.said, self._said_since = {}, time.monotonic()
        said = destination.said
        new = {(patient, person): version for patient, version, person in given if said.get(patient) != person}
        if not new:
            return
        tokens = destination.tokens("patient_id", pa.array([patient for patient, _ in new], pa.string()))
        people = [(*one, version, token) for (one, version), token in zip(new.items(), tokens, strict=True)]
        self._keep_births(
            (token, _BEFORE_ALL - 1, patient, person.born)
            for patient, person, _, token in people
            if person.born not in (*NOT_STATED, DELETED)
        )
        taken = [one for one in people if self._is_taken(one[3])]
        destination.put_people([(token, FROM_RESULTS, version, person) for _, person, version, token in taken])
        destination.said |= {patient: person for patient, person, _, token in taken if self._is_taken(token)}

    def _is_taken(self, token: str) -> bool:
        """Return whether a Person need not be offered again: the store has the patient, or does not admit them."""
        store = self._destination.store
        return store.patients.has(store.survivor(token)) or not self._destination.admits(token)

    def _keep_births(self, given: Iterable[tuple[str, int, str, str]]) -> None:
        """Write dates of birth from admission and result messages to the vault, if the patient's record gives none.

        Args:
            given: pseudonym, _BEFORE_ALL or a version before it, source id, the date or DELETED.
        """
        rows = []
        for token, version, source_id, day in given:
            stored, stored_version = self._vault.look_up(token) or Identity(source_id), self._vault.version(token)
            born, by = (None, None) if day == DELETED else (day, version)
            new = replace_in(stored, birth_date=born, born_by=by)
            not_by_record = stored.birth_date is None or (stored.born_by is not None and version >= stored.born_by)
            if new != stored and (not_by_record or stored_version is None or version >= stored_version):
                rows.append((token, version if stored_version is None else max(version, stored_version), new))
        if rows:
            self._vault.put(rows)

    def look_up(self, tokens: list[str]) -> None:
        """Store the dates of birth from the vault of those of the patients whose date the online store does not know.

        A date that was given for a merged number does not count as the surviving number's own.
        """
        people: list[GivenFact] = []
        for token in dict.fromkeys(tokens):
            survivor = self._destination.store.survivor(token)
            known = self._destination.store.facts.person(survivor, own=True)
            if known is None or not known.born:
                people += self._born_by_vault(survivor, known)
                people += self._born_by_vault(token, known) if token != survivor else []
        self._destination.put_people(people)

    def _born_by_vault(self, token: str, known: Person | None) -> list[GivenFact]:
        identity = self._vault.look_up(token)
        if identity is None or not identity.birth_date:
            return []
        return [(token, FROM_ADMISSIONS, 0, Person(known.sex if known else "unknown", identity.birth_date))]
