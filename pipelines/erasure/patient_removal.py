"""Removes patients from every table of the lake and every store beside it, safe to repeat; or counts what they have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa

from governance.erasure.certificate import TableErased
from governance.erasure.forgotten import Forgotten
from governance.erasure.person import ErasedPerson
from governance.erasure.plain_words import words_in
from governance.erasure.stores import GROUP, Forgetting, personal_stores
from governance.vault import Vault
from pipelines.attribution.associations import TABLE as ASSOCIATIONS
from pipelines.attribution.vacant import vacated
from pipelines.erasure.quarantine_store import Search, count_messages, erase_messages, places_of
from pipelines.people.linked_ids import linked_ids_of
from vitalake.errors import PrivacyError
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.datasets.dataset import DEVICE_KEY
from vitalake.lake.datasets.declared import published_datasets, quarantine_datasets
from vitalake.lake.maintenance.deletion import count_rows, distinct_values, drop_rows, purge
from vitalake.lake.maintenance.lock import outdate_replacement
from vitalake.lake.maintenance.sweep import roll_forward_all
from vitalake.lake.tables.buckets import patient_column
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

_SEALED = tuple(name for name in quarantine_datasets() if name != "resolution")


class ErasedPatientSearch(Search):
    """Finds the messages that name any erased patient by the id; a record number alone is not recognised.

    The vault keeps only a keyed hash of the id of an erased patient, and no record number.
    """

    def __init__(self, vault: Vault, keys: KeyRing, settings: Settings) -> None:
        """Prepare; see ``Search``."""
        super().__init__([], keys, settings=settings, vault=vault)
        self._subject_of, self._stones = vault.subject_of, {stone.subject for stone in vault.tombstones()}

    def is_patient_among(self, named: set[str]) -> bool:
        """Return whether one of the named patients is erased."""
        return not self._stones.isdisjoint(map(self._subject_of, named))

    def has_identifier(self, payload: bytes, *, whole: bool) -> bool:
        """Return whether a word of a message's text is the id of an erased patient."""
        return self.is_patient_among(words_in(payload))


@dataclass(frozen=True, slots=True)
class Holdings:
    """What tables and stores have of a patient.

    Attributes:
        tables: name → rows of its newest version; the messages of quarantine tables.
        elsewhere: name of a store → kind of entry → how many.
        unreadable: messages that nobody can open; some may be the patient's.
        nameless: messages that name nobody whom the vault knows for certain; some may be the patient's.
    """

    tables: dict[str, int]
    elsewhere: dict[str, dict[str, int]]
    unreadable: int
    nameless: int


class PatientRemoval:
    """Removes patients from the tables and stores of one home; used by one thread of one process at a time."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyRing,
        vault: Vault,
        *,
        progress: Callable[[str], None],
    ) -> None:
        """Prepare; see Eraser."""
        self._settings, self._keys, self._vault, self._tell = settings, keys, vault, progress
        self._stores = personal_stores()

    def clear(self, person: ErasedPerson) -> tuple[list[TableErased], dict[str, int]]:
        """Remove a patient from every table and store.

        Returns:
            What was done to each table, and how many entries were removed from each store.

        Raises:
            VitaLakeError: something cannot be reached; safe to repeat.
        """
        # Made before the fence is raised: see Search.
        search = Search(person.ids, self._keys, stays=person.stays, settings=self._settings, vault=self._vault)
        tables = list(self._tables(person, search))
        return tables, self._forget_elsewhere(Forgotten(frozenset(person.digests)), patients=person.tokens)

    def _tables(self, person: ErasedPerson, search: Search) -> Iterator[TableErased]:
        subject = self._vault.subject_of(person.ids[0])
        fenced = self._fenced()
        search.places = places_of(fenced, subject)
        for table in fenced:
            self._tell(table.name)
            if _is_sealed(table):
                yield erase_messages(table, search)
            elif table.name == ASSOCIATIONS:
                yield _clear_associations(table, [self._merge_key(person)], [subject])
            elif column := _column(table):
                yield _clear(table, column, _marks(table, person, subject))
            failpoint("erase-table")

    def _merge_key(self, person: ErasedPerson) -> bytes:
        return linked_ids_of(self._settings, self._keys, self._vault).key_of(person.ids[0])

    def find(self, person: ErasedPerson) -> Holdings:
        """Count what tables and stores have of a patient; change nothing.

        Raises:
            VitaLakeError: something cannot be reached.
        """
        subject = self._vault.subject_of(person.ids[0])
        search = Search(person.ids, self._keys, stays=person.stays, settings=self._settings, vault=self._vault)
        tables = [table for name, table in Home(self._settings).lake().present().items() if name != "spans"]
        search.places = places_of(tables, subject)
        rows = {}
        for table in tables:
            if _is_sealed(table):
                rows[table.name] = count_messages(table, search)
            elif table.name == ASSOCIATIONS:
                merged = count_rows(table, DEVICE_KEY.name, {self._merge_key(person)})
                rows[table.name] = merged + count_rows(table, _column(table) or "", {subject})
            elif column := _column(table):
                rows[table.name] = count_rows(table, column, set(_marks(table, person, subject)))
        whom = self._whom(Forgotten(frozenset(person.digests)), person.tokens)
        elsewhere = {name: dict(store.held(whom)) for name, store in self._stores.items()}
        return Holdings(rows, elsewhere, search.unreadable, search.nameless)

    def clear_again(self, subjects: Sequence[bytes], forgotten: Forgotten) -> tuple[list[TableErased], dict[str, int]]:
        """Remove what a restored back-up has brought back of erased patients.

        Args:
            subjects: of the erased patients.
            forgotten: their pseudonyms, as far as they are known.

        Returns:
            What was done to each table, and how many entries were removed from each store.
        """
        tables = list(self._tables_cleared_again(subjects, forgotten))
        return tables, self._forget_elsewhere(forgotten)

    def _tables_cleared_again(self, subjects: Sequence[bytes], forgotten: Forgotten) -> Iterator[TableErased]:
        search = ErasedPatientSearch(self._vault, self._keys, self._settings)  # before the fence is raised
        for table in self._fenced():
            column = _column(table)
            self._tell(table.name)
            if _is_sealed(table):
                yield erase_messages(table, search)
            elif table.name == ASSOCIATIONS:
                yield _clear_associations(
                    table, linked_ids_of(self._settings, self._keys, self._vault).forgotten(), subjects
                )
            elif column and table.name.startswith("restricted/"):
                yield _clear(table, column, subjects)
            elif column:
                texts = sorted(map(str, distinct_values(table, column)))
                values = [text for text in texts if hashlib.sha256(text.encode()).hexdigest() in forgotten]
                yield _clear(table, column, values)

    def _fenced(self) -> list[Table]:
        """Raise the fence of every dataset, roll forward, and return the lake's tables.

        From then on, no row made before the fence can be added. Quarantine tables come first: if the erasure is
        interrupted, the rows are still there and tell from which messages they were made.
        """
        lake = Home(self._settings).lake()
        if not lake.storage.holds_table("spans"):
            return []
        # Of all datasets: the first rows of one can come meanwhile, and make its tables.
        lake.spans.raise_fences({*published_datasets(), *quarantine_datasets()})
        roll_forward_all(lake)
        tables = [table for name, table in lake.present().items() if name != "spans"]
        for table in tables:
            outdate_replacement(table)
        failpoint("erase-settled")
        return sorted(tables, key=lambda table: not table.name.startswith("quarantine/"))

    def _forget_elsewhere(self, forgotten: Forgotten, *, patients: Sequence[str] | None = None) -> dict[str, int]:
        whom, removed = self._whom(forgotten, patients), {}
        for name, store in self._stores.items():
            self._tell(name)
            removed[name] = store.forget(whom)
        for name, store in self._stores.items():  # when all have forgotten: one that fails must not keep the others
            if left := store.held(whom):
                raise PrivacyError(
                    f"Store {name} still has entries of an erased patient ({', '.join(sorted(left))})",
                    where=f"entry points {GROUP}: {name}",
                    remedy="The erasure is not finished: run 'vitalake patient erase' again. If it says this again, "
                    "the store's 'forget' is wrong.",
                )
        return removed

    def _whom(self, forgotten: Forgotten, patients: Sequence[str] | None) -> Forgetting:
        return Forgetting(self._settings, self._keys, self._vault, forgotten, patients)


def _marks(table: Table, person: ErasedPerson, subject: bytes) -> Sequence[str | bytes]:
    """Return the values of the patient column by which a table's rows are the patient's."""
    return [subject] if table.name.startswith("restricted/") else [*person.tokens, person.ids[0]]


def _column(table: Table) -> str | None:
    """Return the column by which a patient's rows are found; None: the table has none."""
    return patient_column(table.dataset) if table.name.startswith(("published/", "restricted/")) else None


def _is_sealed(table: Table) -> bool:
    zone, _, name = table.name.rpartition("/")
    return zone == "quarantine" and name in _SEALED


def _clear_associations(table: Table, merges: Sequence[bytes], subjects: Sequence[bytes]) -> TableErased:
    """Delete associations that name one of these numbers as merged; make the patients' other ones anonymous.

    An anonymous association still says that a device was with somebody, so that nobody else gets its values.

    Args:
        table: the associations.
        merges: keyed hashes of the merged numbers.
        subjects: of the patients.
    """
    deleted = _clear(table, DEVICE_KEY.name, merges)
    anonymised = _clear(table, _column(table) or "", subjects, instead=vacated)
    parts = (msgspec.structs.astuple(done)[1:] for done in (deleted, anonymised))
    counts = [a + b for a, b in zip(*parts, strict=True)]
    return TableErased(table.name, *counts)


def _clear(
    table: Table,
    column: str,
    values: Sequence[str | bytes],
    *,
    instead: Callable[[pa.Table], pa.Table] | None = None,
) -> TableErased:
    """Remove the rows that have one of the values, and delete older files that hold such rows.

    Args:
        table: the table.
        column: in which the values stand.
        values: pseudonyms or keyed hashes.
        instead: makes the rows that replace the removed ones; None: nothing replaces them.
    """
    dropped = [drop_rows(table, column, value, instead=instead) for value in values]
    return TableErased(
        table=table.name,
        rows=sum(part.rows for part in dropped),
        files_searched=max((part.files_searched for part in dropped), default=0),
        bytes_searched=sum(part.bytes_searched for part in dropped),
        files_rewritten=sum(part.files_rewritten for part in dropped),
        bytes_rewritten=sum(part.bytes_rewritten for part in dropped),
        files_deleted=sum(purge(table, column, value) for value in values),
    )
