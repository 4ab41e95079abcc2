"""Takes patients out of every table of the lake and every store beside it; safe to repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pyarrow as pa

from governance.erasure.certificate import TableErased
from governance.erasure.forgotten import Forgotten
from governance.erasure.person import ErasedPerson
from governance.erasure.plain_words import words_in
from governance.erasure.stores import Forgetting, personal_stores
from governance.vault import Vault
from pipelines.attribution.associations import TABLE as ASSOCIATIONS
from pipelines.attribution.vacant import vacated
from pipelines.erasure.quarantine_store import Search, erase_letters, places_of
from pipelines.people.linked_ids import linked_ids_of
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.datasets.dataset import DEVICE_KEY
from vitalake.lake.datasets.declared import load_dataset, quarantine_datasets
from vitalake.lake.maintenance.deletion import distinct_values, drop_rows, purge
from vitalake.lake.maintenance.sweep import roll_forward_all
from vitalake.lake.tables.buckets import patient_column
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

_SEALED = tuple(name for name in quarantine_datasets() if name != "resolution")


class ForgottenLetters(Search):
    """Finds the messages that name anybody who is forgotten, by the id; by the record number alone it cannot."""

    def __init__(self, vault: Vault, keys: KeyRing, settings: Settings) -> None:
        """Prepare, as ``Search``."""
        super().__init__([], keys, settings=settings, vault=vault)
        self._subject_of, self._stones = vault.subject_of, {stone.subject for stone in vault.tombstones()}

    def wants(self, named: set[str]) -> bool:
        """Return whether one of those who are named is forgotten."""
        return not self._stones.isdisjoint(map(self._subject_of, named))

    def says(self, payload: bytes, *, whole: bool) -> bool:
        """Return whether a word of a message's text is the id of somebody forgotten."""
        return self.wants(words_in(payload))


class Clearing:
    """Clears the tables and stores of one home; used by one thread, and by one process at a time."""

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

    def of(self, wanted: ErasedPerson) -> tuple[list[TableErased], dict[str, int]]:
        """Clear every table and store of a patient.

        Returns:
            What was done to each table, and how many entries went elsewhere.

        Raises:
            VitaLakeError: something cannot be reached; safe to repeat.
        """
        # Before the fence is raised.
        search = Search(wanted.ids, self._keys, stays=wanted.stays, settings=self._settings, vault=self._vault)
        tables = list(self._tables(wanted, search))
        return tables, self._forget_elsewhere(Forgotten(frozenset(wanted.digests)), patients=wanted.tokens)

    def _tables(self, wanted: ErasedPerson, search: Search) -> Iterator[TableErased]:
        subject = self._vault.subject_of(wanted.ids[0])
        merges = [linked_ids_of(self._settings, self._keys, self._vault).key_of(wanted.ids[0])]
        fenced = self._fenced()
        search.places = places_of(fenced, subject)
        for table in fenced:
            column = _column(table)
            self._tell(table.name)
            if _is_sealed(table):
                yield erase_letters(table, search)
            elif table.name == ASSOCIATIONS:
                yield _clear_associations(table, merges, [subject])
            elif column and table.name.startswith("restricted/"):
                yield _clear(table, column, [subject])
            elif column:
                yield _clear(table, column, (*wanted.tokens, wanted.ids[0]))
            failpoint("erase-table")

    def again(self, subjects: Sequence[bytes], forgotten: Forgotten) -> tuple[list[TableErased], dict[str, int]]:
        """Clear what a back-up has brought back of those who are forgotten.

        Args:
            subjects: who they are.
            forgotten: their pseudonyms, as far as they are known.

        Returns:
            What was done to each table, and how many entries went elsewhere.
        """
        tables = list(self._tables_again(subjects, forgotten))
        return tables, self._forget_elsewhere(forgotten)

    def _tables_again(self, subjects: Sequence[bytes], forgotten: Forgotten) -> Iterator[TableErased]:
        search = ForgottenLetters(self._vault, self._keys, self._settings)  # before the fence is raised
        for table in self._fenced():
            column = _column(table)
            self._tell(table.name)
            if _is_sealed(table):
                yield erase_letters(table, search)
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
        """Return the lake's tables, after which no row that was made before can come any more.

        Messages come first: of who is killed later the rows still tell which of them they were made of.
        """
        lake = Home(self._settings).lake()
        present = lake.present()
        if "spans" not in present:
            return []
        for dataset in sorted({load_dataset(name.rpartition("/")[2]).name for name in present} - {"spans"}):
            lake.spans.raise_fence(dataset)
        roll_forward_all(lake)
        failpoint("erase-settled")
        tables = [table for name, table in present.items() if name != "spans"]
        return sorted(tables, key=lambda table: not table.name.startswith("quarantine/"))

    def _forget_elsewhere(self, forgotten: Forgotten, *, patients: Sequence[str] | None = None) -> dict[str, int]:
        whom, gone = Forgetting(self._settings, self._keys, self._vault, forgotten, patients), {}
        for name, store in self._stores.items():
            self._tell(name)
            gone[name] = store.forget(whom)
        return gone


def _column(table: Table) -> str | None:
    """Return the column by which a patient's rows are found."""
    return patient_column(table.dataset) if table.name.startswith(("published/", "restricted/")) else None


def _is_sealed(table: Table) -> bool:
    zone, _, name = table.name.rpartition("/")
    return zone == "quarantine" and name in _SEALED


def _clear_associations(table: Table, merges: Sequence[bytes], subjects: Sequence[bytes]) -> TableErased:
    """Remove the rows that name a number as merged; of the others that a device was with somebody stays.

    Args:
        table: the associations.
        merges: keyed hashes of the numbers.
        subjects: whose.
    """
    whole = _clear(table, DEVICE_KEY.name, merges)
    rest = _clear(table, _column(table) or "", subjects, instead=vacated)
    counts = [a + b for a, b in zip(msgspec.structs.astuple(whole)[1:], msgspec.structs.astuple(rest)[1:], strict=True)]
    return TableErased(table.name, *counts)


def _clear(
    table: Table,
    column: str,
    values: Sequence[str | bytes],
    *,
    instead: Callable[[pa.Table], pa.Table] | None = None,
) -> TableErased:
    """Remove the rows that have one of the values, and delete what holds some and no version needs any more."""
    dropped = [drop_rows(table, column, value, instead=instead) for value in values]
    return TableErased(
        table=table.name,
        rows=sum(part.rows for part in dropped),
        files_searched=max((part.files_searched for part in dropped), default=0),
        bytes_searched=sum(part.bytes_searched for part in dropped),
        files_rewritten=sum(part.files_rewritten for part in dropped),
        bytes_rewritten=sum(part.bytes_rewritten + part.bytes_written for part in dropped),
        files_deleted=sum(purge(table, column, value) for value in values),
    )
