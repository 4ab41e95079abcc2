"""Forgets a patient: key first, so that every copy is unreadable at once; then the rows, in all zones and versions.

Each step is safe to repeat, and the vault keeps what is needed to go on until the last one is done: a killed erasure
is finished by the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import pyarrow.compute as pc

from governance.masking import compile_masks
from governance.masks import Pseudonyms
from governance.rules import load_policy
from pipelines.attribution.associations import TABLE as ASSOCIATIONS
from pipelines.attribution.vacant import vacated
from pipelines.care import open_care
from pipelines.erasure.certificate import Certificate, Outside, TableErased, new_id, now, save
from pipelines.erasure.letters import Search, erase_letters, places_of
from pipelines.erasure.outside import outside
from vitalake import clock
from vitalake.crashpoints import passing
from vitalake.errors import InputError, PrivacyError
from vitalake.keys import KeyRing
from vitalake.lake.buckets import may_hold, patient_column
from vitalake.lake.dataset import SUBJECT, load_dataset, quarantine_datasets
from vitalake.lake.forgetting import distinct_values, drop_rows, has_value, purge
from vitalake.lake.lake import Lake
from vitalake.lake.sweep import settle
from vitalake.lake.table import Table
from vitalake.settings import Settings
from vitalake.vault import PendingErasure, Vault

Forget = Callable[[Sequence[str]], int]
"""Deletes what a store outside the lake has of pseudonyms; returns how many entries."""

_SEALED = tuple(name for name in quarantine_datasets() if name != "resolution")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of a patient who is to be forgotten; kept sealed in the vault until it is done.

    Attributes:
        ids: as sources write them: the patient's id, the record number.
        tokens: pseudonyms, of every version of the key.
        reason: in the officer's words.
        actor: who asked for it.
        begun_at: ISO.
    """

    ids: tuple[str, ...]
    tokens: tuple[str, ...]
    reason: str
    actor: str
    begun_at: str

    def packed(self) -> list[str]:
        """Return it as the vault keeps it."""
        return [
            f"reason {self.reason}", f"actor {self.actor}", f"begun {self.begun_at}",
            *(f"id {text}" for text in self.ids), *(f"token {text}" for text in self.tokens),
        ]  # fmt: skip

    @classmethod
    def unpacked(cls, texts: Iterable[str]) -> Wanted:
        """Return what ``packed`` made."""
        parts = [text.partition(" ")[::2] for text in texts]
        of = {kind: tuple(text for name, text in parts if name == kind) for kind in ("id", "token")}
        one = dict(parts)
        return cls(of["id"], of["token"], one["reason"], one["actor"], one["begun"])


class Eraser:
    """Erases patients of one home; used by one thread, and by one process at a time."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyRing,
        vault: Vault,
        *,
        elsewhere: Mapping[str, Forget],
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare.

        Args:
            settings: of the home.
            keys: the home's.
            vault: opened.
            elsewhere: further stores, by name.
            progress: told each step.
        """
        self._settings, self._keys, self._vault = settings, keys, vault
        self._elsewhere, self._tell = elsewhere, progress
        self._folder = settings.path(settings.certificates)

    # -- what an officer asks for --------------------------------------------------------------------------------

    def subject_of(self, patient: str) -> bytes:
        """Return the subject of a pseudonym, or of an id as the source writes it.

        Raises:
            InputError: nobody is known by it; it is not echoed.
        """
        subject = self._vault.subject_of_token(patient) or self._vault.subject_of(patient)
        if not self._vault.patient_ids([subject]) and self._vault.tombstone(subject) is None:
            raise InputError(
                "Nobody is known by this",
                where="patient",
                remedy="Give the pseudonym as the board shows it, or the id as the source writes it.",
            )
        return subject

    def tokens_of(self, patient: str) -> list[str]:
        """Return the pseudonym of who is known by this, for the record; nothing for who is forgotten."""
        subject = self.subject_of(patient)
        return [token for known, token in self._vault.tokens().items() if known == subject]

    def erase(self, patient: str, *, reason: str, actor: str) -> Certificate:
        """Forget a patient; return the certificate, which is written.

        Args:
            patient: pseudonym, or id as the source writes it.
            reason: in the officer's words.
            actor: who does it.

        Raises:
            InputError: nobody is known by it.
            PrivacyError: a legal hold, or the time that records must be kept, stands against it; nothing was done.
            VitaLakeError: something cannot be reached; what is left is done by ``finish``.
        """
        subject = self.subject_of(patient)
        if (stone := self._vault.tombstone(subject)) is not None:
            raise PrivacyError(
                "Patient is forgotten already", where=stone.certificate, remedy="See 'vitalake patient certificate'."
            )
        self._refuse_kept(subject)
        wanted = self._wanted(subject, reason=reason, actor=actor)
        certificate = new_id()
        self._tell("Destroying the key")
        self._vault.begin_erasure(subject, certificate, wanted.packed())
        passing("erase-begun")
        return self._finish(certificate, subject, wanted)

    def finish(self) -> list[Certificate]:
        """Do what killed erasures have left to be done; return their certificates."""
        return [self._go_on(pending) for pending in self._vault.pending_erasures()]

    def _go_on(self, pending: PendingErasure) -> Certificate:
        wanted = Wanted.unpacked(pending.identifiers)
        # Killed between the note and the destruction: the key may still be there.
        self._vault.begin_erasure(pending.subject, pending.certificate, list(pending.identifiers))
        return self._finish(pending.certificate, pending.subject, wanted)

    def _refuse_kept(self, subject: bytes) -> None:
        """Stop where the patient's newest rows are of days that must be kept."""
        records = self._settings.records
        if not records.keep_days:
            return
        horizon = str((clock.now() - timedelta(days=records.keep_days)).date())
        lake = Lake(self._settings.lake_uri, self._settings.storage_options)
        for name, table in lake.present().items():
            if name.startswith("restricted/") and (day := newest_day(table, subject, after=horizon)):
                until = date.fromisoformat(day) + timedelta(days=records.keep_days)
                raise PrivacyError(
                    f"Records must be kept until {until} ({records.basis or 'records.keep_days'})",
                    where=name,
                    remedy="Ask again when that time is over, or mend settings.records if that is not so.",
                )

    def _wanted(self, subject: bytes, *, reason: str, actor: str) -> Wanted:
        source_id = self._vault.patient_ids([subject])[subject]
        tokens = {token for known, token in self._vault.tokens().items() if known == subject}
        for key in self._keys.versions("pseudonym"):
            ring = replace(self._keys, current_versions=self._keys.current_versions | {"pseudonym": key.version})
            tokens.add(Pseudonyms(ring, "patient-identifier").token(source_id))
        identity = next((found for token in tokens if (found := self._vault.look_up(token))), None)
        mrn = [identity.mrn] if identity and identity.mrn else []
        return Wanted((source_id, *mrn), tuple(sorted(tokens)), reason, actor, now())

    # -- doing it ------------------------------------------------------------------------------------------------

    def _finish(self, certificate: str, subject: bytes, wanted: Wanted) -> Certificate:
        search = Search(wanted.ids, self._keys, settings=self._settings)  # before the fence is raised
        tables = list(self._tables(subject, (*wanted.tokens, *wanted.ids[:1]), search))
        self._tell("Care store and scores")
        elsewhere = self._forget_elsewhere(wanted.tokens)
        passing("erase-elsewhere")
        done = Certificate(
            id=certificate,
            subject=subject.hex(),
            tokens=tuple(hashlib.sha256(token.encode()).hexdigest() for token in wanted.tokens),
            reason=wanted.reason,
            actor=wanted.actor,
            begun_at=wanted.begun_at,
            finished_at=now(),
            tables=tuple(tables),
            elsewhere=elsewhere,
            outside=(*outside(self._settings), *self._unmasked()),
        )
        save(self._folder, done)
        passing("erase-certified")
        self._vault.finish_erasure(certificate)
        return done

    def reapply(self, certificates: Sequence[Certificate]) -> list[TableErased]:
        """Erase again who was erased before: a back-up of the lake may have brought them back.

        Args:
            certificates: of all of them.

        Returns:
            The tables in which something was found.
        """
        digests = {token for certificate in certificates for token in certificate.tokens}
        found = []
        for table in self._fenced():
            column = _column(table)
            if column is None:
                continue
            if table.name.startswith("restricted/"):
                values: list[str | bytes] = [bytes.fromhex(certificate.subject) for certificate in certificates]
            else:
                texts = sorted(map(str, distinct_values(table, column)))
                values = [text for text in texts if hashlib.sha256(text.encode()).hexdigest() in digests]
            self._tell(table.name)
            found.append(_clear(table, column, values))
        return [done for done in found if done.rows or done.files_deleted]

    def _tables(self, subject: bytes, tokens: Sequence[str], search: Search) -> Iterator[TableErased]:
        fenced = self._fenced()
        search.places = places_of(fenced, subject)
        # Messages first: killed later, the rows still tell which of them they were made of.
        for table in sorted(fenced, key=lambda table: not table.name.startswith("quarantine/")):
            column = _column(table)
            name = table.name.rpartition("/")[2]
            self._tell(table.name)
            if table.name.startswith("quarantine/") and name in _SEALED:
                yield erase_letters(table, search)
            elif table.name.startswith("restricted/") and column:
                yield _clear(table, column, [subject])
            elif table.name.startswith("published/") and column:
                yield _clear(table, column, tokens)
            passing("erase-table")

    def _fenced(self) -> list[Table]:
        """Return the lake's tables, after which no row that was made before can come any more."""
        lake = Lake(self._settings.lake_uri, self._settings.storage_options)
        present = lake.present()
        if "spans" not in present:
            return []
        for dataset in sorted({load_dataset(name.rpartition("/")[2]).name for name in present} - {"spans"}):
            lake.spans.raise_fence(dataset)
        settle(lake)
        passing("erase-settled")
        return [table for name, table in present.items() if name != "spans"]

    def _forget_elsewhere(self, tokens: Sequence[str]) -> dict[str, int]:
        care = open_care(self._settings, self._keys)
        try:
            done = {"care": care.forget(tokens)}
        finally:
            care.close()
        return done | {name: forget(tokens) for name, forget in self._elsewhere.items()}

    def _unmasked(self) -> Iterator[Outside]:
        """Yield the published tables whose rows do not say whose they are: those stay, and name nobody."""
        policy = load_policy(self._settings.path(self._settings.governance))
        lake = Lake(self._settings.lake_uri, self._settings.storage_options)
        for name, table in lake.present().items():
            column = _column(table)
            if not name.startswith("published/") or column is None:
                continue
            plan = compile_masks(policy, table.dataset, self._keys)
            if not next(c.published for c in plan.columns if c.column.name == column):
                yield Outside(name, "its rows do not say whose they are, so the patient's stay among them")


def newest_day(table: Table, subject: bytes, *, after: str) -> str | None:
    """Return the newest day, later than an ISO date, of which a restricted table has rows of a patient."""
    files = sorted(table.snapshot().files.values(), key=lambda file: file.day or "", reverse=True)
    for file in files:
        if file.day is None or file.day <= after:
            break
        if may_hold(file.path, subject):
            column = table.storage.read_parquet(file.path, [SUBJECT.name])[SUBJECT.name]
            if pc.any(has_value(column.combine_chunks(), {subject})).as_py():
                return file.day
    return None


def _column(table: Table) -> str | None:
    """Return the column by which a patient's rows are found."""
    return patient_column(table.dataset) if table.name.startswith(("published/", "restricted/")) else None


def _clear(table: Table, column: str, values: Sequence[str | bytes]) -> TableErased:
    """Remove the rows that have one of the values, and delete what holds some and no version needs any more."""
    instead = vacated if table.name == ASSOCIATIONS else None
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
