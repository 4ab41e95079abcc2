"""Forgets a patient: key first, so that every copy is unreadable at once; then the rows, in all zones and versions.

Each step is safe to repeat, and the vault keeps what is needed to go on until the last one is done: a killed erasure
is finished by the next.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

import msgspec
import pyarrow as pa

from governance.masking import compile_masks
from governance.masks import Pseudonyms
from governance.rules import load_policy
from pipelines.attribution.associations import TABLE as ASSOCIATIONS
from pipelines.attribution.vacant import vacated
from pipelines.care import open_care
from pipelines.erasure.certificate import Certificate, Outside, TableErased, is_there, load, new_id, now, save
from pipelines.erasure.kept import refuse_kept
from pipelines.erasure.known import known_of
from pipelines.erasure.letters import Search, erase_letters, places_of
from pipelines.erasure.numbers import Numbers
from pipelines.erasure.outside import outside
from vitalake.crashpoints import passing
from vitalake.errors import InputError, PrivacyError, SettingsError, VitaLakeError
from vitalake.folders import folder_lock
from vitalake.keys import KeyRing
from vitalake.lake.buckets import patient_column
from vitalake.lake.dataset import DEVICE_KEY, load_dataset, quarantine_datasets
from vitalake.lake.forgetting import distinct_values, drop_rows, purge
from vitalake.lake.lake import Lake
from vitalake.lake.sweep import settle
from vitalake.lake.table import Table
from vitalake.settings import Settings
from vitalake.vault import PendingErasure, Vault

Forget = Callable[[Sequence[str]], int]
"""Deletes what a store outside the lake has of pseudonyms, given by SHA-256 in hex; returns how many entries."""

_SEALED = tuple(name for name in quarantine_datasets() if name != "resolution")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of a patient who is to be forgotten; kept sealed in the vault until it is done.

    Attributes:
        ids: as sources write them: the patient's id, the record numbers, also earlier ones.
        tokens: pseudonyms, of every version of the key.
        reason: in the officer's words.
        actor: who asked for it.
        begun_at: ISO.
        together: of the patient's other numbers: id → certificate.
        stays: as sources write them.
    """

    ids: tuple[str, ...] = field(repr=False)
    tokens: tuple[str, ...] = field(repr=False)
    reason: str
    actor: str
    begun_at: str
    together: Mapping[str, str] = field(repr=False, default_factory=dict)
    stays: tuple[str, ...] = field(repr=False, default=())

    @property
    def digests(self) -> tuple[str, ...]:
        """The pseudonyms as certificates have them."""
        return tuple(hashlib.sha256(token.encode()).hexdigest() for token in self.tokens)

    def packed(self) -> list[str]:
        """Return it as the vault keeps it."""
        return [
            f"reason {self.reason}", f"actor {self.actor}", f"begun {self.begun_at}",
            *(f"id {text}" for text in self.ids), *(f"token {text}" for text in self.tokens),
            *(f"with {certificate} {patient}" for patient, certificate in self.together.items()),
            *(f"stay {text}" for text in self.stays),
        ]  # fmt: skip

    @classmethod
    def unpacked(cls, texts: Iterable[str]) -> Wanted:
        """Return what ``packed`` made."""
        parts = [text.partition(" ")[::2] for text in texts]
        of = {kind: tuple(text for name, text in parts if name == kind) for kind in ("id", "token", "with", "stay")}
        one = dict(parts)
        together = {patient: certificate for certificate, _, patient in (text.partition(" ") for text in of["with"])}
        return cls(of["id"], of["token"], one["reason"], one["actor"], one["begun"], together, of["stay"])


@dataclass(frozen=True, slots=True)
class Reapplied:
    """What was erased again after a restore.

    Attributes:
        tables: in which something was found.
        elsewhere: name of a store → how many entries went.
        erasures: how many patients are forgotten.
        uncertified: ids of certificates that are not there: of those the published rows cannot be told.
    """

    tables: list[TableErased]
    elsewhere: dict[str, int]
    erasures: int
    uncertified: list[str]


class ForgottenLetters(Search):
    """Finds the messages that name anybody who is forgotten, by the id; by the record number alone it cannot."""

    def __init__(self, vault: Vault, keys: KeyRing, settings: Settings) -> None:
        """Prepare, as ``Search``."""
        super().__init__([], keys, settings=settings)
        self._is_forgotten = cache(lambda patient: vault.tombstone(vault.subject_of(patient)) is not None)

    def names(self, payload: bytes, formats: Iterable[str] = ("",)) -> bool:
        """Return whether a message that can be taken apart names somebody forgotten."""
        found = [self._naming.named_in(payload, name) or () for name in formats]
        return any(self._is_forgotten(patient) for named in found for patient in named)


class Eraser:
    """Erases patients of one home; used by one thread. Of several processes one works, and the others wait for it."""

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

    def subject_of(self, patient: str, *, unknown: bool = False) -> bytes:
        """Return the subject of a pseudonym, or of an id as the source writes it.

        Args:
            patient: pseudonym or id.
            unknown: take an id of which the vault knows nothing.

        Raises:
            InputError: nobody is known by it; it is not echoed.
        """
        subject = self._vault.subject_of_token(patient) or self._vault.subject_of(patient)
        if not (unknown or self._vault.patient_ids([subject]) or self._vault.tombstone(subject)):
            raise InputError(
                "Nobody is known by this",
                where="patient",
                remedy="Give the pseudonym as the board shows it, or the id as the source writes it; 'erase' takes an "
                "id of which all messages were rejected with --unknown.",
            )
        return subject

    def tokens_of(self, patient: str, *, all_numbers: bool = False) -> list[str]:
        """Return the pseudonyms of who is known by this, for the record; nothing for who is forgotten, or not known.

        Args:
            patient: pseudonym or id.
            all_numbers: also of the patient's other numbers.
        """
        numbers = self._numbers_of(patient) if all_numbers else [self._id_of(patient)]
        subjects = {self._vault.subject_of(number) for number in numbers}
        return [token for known, token in self._vault.tokens().items() if known in subjects]

    def forgotten(self, patient: str) -> str | None:
        """Return the certificate by which somebody is forgotten already; None: not, or it was never written."""
        stone = self._vault.tombstone(self._vault.subject_of(patient))
        return stone.certificate if stone and is_there(self._folder, stone.certificate) else None

    def erase(
        self, patient: str, *, reason: str, actor: str, all_numbers: bool = False, unknown: bool = False
    ) -> Certificate:
        """Forget a patient; return the certificate, which is written.

        Who was forgotten without a certificate, as in a vault that was restored, is forgotten to the end under its id.

        Args:
            patient: pseudonym, or id as the source writes it.
            reason: in the officer's words; names nobody.
            actor: who does it.
            all_numbers: also the patient's other numbers, as merges tell; each gets a certificate.
            unknown: also an id of which the vault knows nothing, for messages that were rejected may name it.

        Raises:
            InputError: nobody is known by it, or the reason names the patient.
            PrivacyError: a legal hold, the time that records must be kept, or another number stands against it, or the
                patient is forgotten already; nothing was done.
            VitaLakeError: something cannot be reached; what is left is done by ``finish``.
        """
        with self._alone():
            self.subject_of(patient, unknown=unknown)
            if certificate := self.forgotten(patient):
                raise PrivacyError(
                    "Patient is forgotten already", where=certificate, remedy="See 'vitalake patient certificate'."
                )
            numbers = self._numbers_of(patient)
            if len(numbers) > 1 and not all_numbers:
                raise self._has_other_numbers(numbers[1:])
            ids = {number: self._certificate_of(number) for number in numbers}
            wanted = [self._wanted(number, ids, reason=reason, actor=actor, begun_at=now()) for number in numbers]
            resumed = self._vault.tombstone(self._vault.subject_of(numbers[0])) is not None
            for each in wanted:
                self._refuse(each)
            self._tell("Destroying the key")
            for each in wanted:
                self._begin(each, ids[each.ids[0]])
            passing("erase-begun")
            done = [self._finish(ids[each.ids[0]], each, resumed=resumed) for each in wanted]
            return done[0]

    def again(self, patient: str) -> tuple[list[TableErased], dict[str, int]]:
        """Look once more for what came of somebody who is forgotten already, such as messages that were rejected.

        Args:
            patient: id as the source writes it.

        Returns:
            The tables of which something went, and what went elsewhere.
        """
        with self._alone():
            tables, elsewhere = self._clear_all(self._wanted(patient, {}, reason="", actor="", begun_at=now()))
            return [table for table in tables if table.rows or table.files_deleted], elsewhere

    def finish(self) -> tuple[list[Certificate], list[VitaLakeError]]:
        """Do what killed erasures have left to be done; one that fails does not stop the others.

        Returns:
            Their certificates, and why some could not be gone on with.
        """
        done: list[Certificate] = []
        failed: list[VitaLakeError] = []
        tried: set[str] = set()
        with self._alone():
            while pending := [p for p in self._vault.pending_erasures() if p.certificate not in tried]:
                tried.add(pending[0].certificate)
                try:
                    done.append(self._go_on(pending[0]))
                except VitaLakeError as error:
                    failed.append(error)
        return done, failed

    def _go_on(self, pending: PendingErasure) -> Certificate:
        if is_there(self._folder, pending.certificate):  # killed after it was written
            self._vault.finish_erasure(pending.certificate)
            return load(self._folder, pending.certificate)
        wanted = Wanted.unpacked(pending.identifiers)
        if not pending.destroyed:
            wanted = self._anew(pending, wanted)
        self._begin(wanted, pending.certificate)
        return self._finish(pending.certificate, self._with_others(wanted, pending.certificate), resumed=True)

    def _anew(self, pending: PendingErasure, noted: Wanted) -> Wanted:
        """Return what is known by now of somebody whose key is still there; drop the note where it is refused by now.

        Raises:
            PrivacyError: it is refused; nothing was done.
        """
        ids = {**noted.together, noted.ids[0]: pending.certificate}
        wanted = self._wanted(noted.ids[0], ids, reason=noted.reason, actor=noted.actor, begun_at=noted.begun_at)
        try:
            self._refuse(wanted)
            if others := [number for number in self._numbers_of(noted.ids[0]) if number not in ids]:
                raise self._has_other_numbers(others)
        except (InputError, PrivacyError) as error:
            if error.transient:
                raise
            self._vault.finish_erasure(pending.certificate)
            raise PrivacyError(
                f"{error.what}; so {pending.certificate}, of which nothing was done, is dropped",
                where=error.where,
                remedy=f"{error.remedy} Then ask for it again.",
            ) from None
        return wanted

    def _with_others(self, wanted: Wanted, certificate: str) -> Wanted:
        """Begin the erasure of a patient's other numbers, where it was killed between them; leave out those refused."""
        ids = {**wanted.together, wanted.ids[0]: certificate}
        together = dict(wanted.together)
        for number, other in wanted.together.items():
            if self._vault.tombstone(self._vault.subject_of(number)) is None:
                try:
                    each = self._wanted(number, ids, reason=wanted.reason, actor=wanted.actor, begun_at=wanted.begun_at)
                    self._refuse(each)
                    self._begin(each, other)
                except PrivacyError as error:
                    if error.transient:
                        raise
                    del together[number]
        return replace(wanted, together=together)

    def _refuse(self, wanted: Wanted) -> None:
        """Stop where the words of the reason, a hold, or the duty to keep records stand against it."""
        refuse_naming(wanted.reason, (*wanted.ids, *wanted.tokens))
        subject = self._vault.subject_of(wanted.ids[0])
        if self._vault.tombstone(subject) is None:  # else it was decided, and is only gone on with
            self._vault.refuse_held(subject)
            refuse_kept(self._settings, self._vault, self._keys, subject)

    def _begin(self, wanted: Wanted, certificate: str) -> None:
        self._vault.begin_erasure(self._vault.subject_of(wanted.ids[0]), certificate, wanted.packed())

    def _certificate_of(self, patient: str) -> str:
        stone = self._vault.tombstone(self._vault.subject_of(patient))
        return stone.certificate if stone else new_id()

    def _id_of(self, patient: str) -> str:
        """Return the source id of a pseudonym; what is none, or nobody's any more, is an id."""
        subject = self._vault.subject_of_token(patient)
        return self._vault.patient_ids([subject]).get(subject, patient) if subject else patient

    def _numbers_of(self, patient: str) -> list[str]:
        return self._numbers().of(self._id_of(patient))

    def _numbers(self) -> Numbers:
        lake = Lake(self._settings.lake_uri, self._settings.storage_options)
        return Numbers(lake, self._vault, self._keys.current("vault").secret)

    def _has_other_numbers(self, numbers: Sequence[str]) -> PrivacyError:
        token_of = Pseudonyms(self._keys, "patient-identifier").token
        return PrivacyError(
            f"Patient has other numbers ({', '.join(map(token_of, numbers))})",
            where="merges of admissions",
            remedy="One alone cannot be forgotten: with --all-numbers all are, each with a certificate.",
        )

    def _wanted(self, patient: str, ids: Mapping[str, str], *, reason: str, actor: str, begun_at: str) -> Wanted:
        """Return what is known of an id; of whom the vault has no key, what the id tells.

        Args:
            patient: as the source writes it.
            ids: certificates, of this and the patient's other numbers.
            reason: in the officer's words.
            actor: who asked for it.
            begun_at: ISO.
        """
        subject = self._vault.subject_of(patient)
        tokens = {token for known, token in self._vault.tokens().items() if known == subject}
        for key in self._keys.versions("pseudonym"):
            ring = replace(self._keys, current_versions=self._keys.current_versions | {"pseudonym": key.version})
            tokens.add(Pseudonyms(ring, "patient-identifier").token(patient))
        identity = next((found for token in tokens if (found := self._vault.look_up(token))), None)
        told = known_of(self._settings, self._vault, subject)
        numbers = sorted(told["medical-record-number"] | ({identity.mrn} if identity and identity.mrn else set()))
        others = {number: certificate for number, certificate in ids.items() if number != patient}
        stays = tuple(sorted(told["encounter-identifier"]))
        return Wanted((patient, *numbers), tuple(sorted(tokens)), reason, actor, begun_at, others, stays)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else erase meanwhile, who would finish what is under way and write another certificate of it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with folder_lock(self._folder):
            yield

    # -- doing it ------------------------------------------------------------------------------------------------

    def _finish(self, certificate: str, wanted: Wanted, *, resumed: bool = False) -> Certificate:
        tables, elsewhere = self._clear_all(wanted)
        passing("erase-elsewhere")
        done = Certificate(
            id=certificate,
            subject=self._vault.subject_of(wanted.ids[0]).hex(),
            tokens=wanted.digests,
            reason=wanted.reason,
            actor=wanted.actor,
            begun_at=wanted.begun_at,
            finished_at=now(),
            tables=tuple(tables),
            elsewhere=elsewhere,
            outside=(*outside(self._settings), *self._unmasked()),
            resumed=resumed,
            together=tuple(wanted.together.values()),
        )
        save(self._folder, done)
        passing("erase-certified")
        self._vault.finish_erasure(certificate)
        return done

    def _clear_all(self, wanted: Wanted) -> tuple[list[TableErased], dict[str, int]]:
        # Before the fence is raised.
        search = Search(wanted.ids, self._keys, stays=wanted.stays, settings=self._settings)
        tables = list(self._tables(wanted, search))
        self._tell("Care store and scores")
        with closing(open_care(self._settings, self._keys)) as care:
            elsewhere = {"care": care.forget(wanted.tokens)}
        return tables, elsewhere | self._forget_elsewhere(wanted.digests)

    def _tables(self, wanted: Wanted, search: Search) -> Iterator[TableErased]:
        subject = self._vault.subject_of(wanted.ids[0])
        merges = [self._numbers().key_of(wanted.ids[0])]
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
            passing("erase-table")

    def reapply(self, certificates: Sequence[Certificate]) -> Reapplied:
        """Erase again who was erased before: a back-up of lake, care store or scores may have brought them back.

        Who that is the vault's tombstones say, which are those of the log, and the certificates, which alone know
        pseudonyms.

        Args:
            certificates: of all of them.
        """
        stones = {stone.subject: stone.certificate for stone in self._vault.tombstones()}
        certified = {bytes.fromhex(certificate.subject) for certificate in certificates}
        digests = sorted({token for certificate in certificates for token in certificate.tokens})
        with self._alone():
            tables = list(self._tables_again(sorted(stones.keys() | certified), set(digests)))
            self._tell("Care store and scores")
            with closing(open_care(self._settings, self._keys)) as care:
                elsewhere = {"care": care.forget_digests(digests)}
            elsewhere |= self._forget_elsewhere(digests)
        return Reapplied(
            [table for table in tables if table.rows or table.files_deleted],
            elsewhere,
            len(stones.keys() | certified),
            sorted(stones[subject] for subject in stones.keys() - certified),
        )

    def _tables_again(self, subjects: Sequence[bytes], digests: set[str]) -> Iterator[TableErased]:
        search = ForgottenLetters(self._vault, self._keys, self._settings)  # before the fence is raised
        for table in self._fenced():
            column = _column(table)
            self._tell(table.name)
            if _is_sealed(table):
                yield erase_letters(table, search)
            elif table.name == ASSOCIATIONS:
                yield _clear_associations(table, self._numbers().forgotten(), subjects)
            elif column and table.name.startswith("restricted/"):
                yield _clear(table, column, subjects)
            elif column:
                texts = sorted(map(str, distinct_values(table, column)))
                values = [text for text in texts if hashlib.sha256(text.encode()).hexdigest() in digests]
                yield _clear(table, column, values)

    def _fenced(self) -> list[Table]:
        """Return the lake's tables, after which no row that was made before can come any more.

        Messages come first: of who is killed later the rows still tell which of them they were made of.
        """
        lake = Lake(self._settings.lake_uri, self._settings.storage_options)
        present = lake.present()
        if "spans" not in present:
            return []
        for dataset in sorted({load_dataset(name.rpartition("/")[2]).name for name in present} - {"spans"}):
            lake.spans.raise_fence(dataset)
        settle(lake)
        passing("erase-settled")
        tables = [table for name, table in present.items() if name != "spans"]
        return sorted(tables, key=lambda table: not table.name.startswith("quarantine/"))

    def _forget_elsewhere(self, digests: Sequence[str]) -> dict[str, int]:
        return {name: forget(digests) for name, forget in self._elsewhere.items()}

    def _unmasked(self) -> Iterator[Outside]:
        """Yield the published tables whose rows do not say whose they are: those stay, and name nobody."""
        lake = Lake(self._settings.lake_uri, self._settings.storage_options)
        published = {name: table for name, table in lake.present().items() if name.startswith("published/")}
        try:
            policy = load_policy(self._settings.path(self._settings.governance))
            plans = {name: compile_masks(policy, table.dataset, self._keys) for name, table in published.items()}
        except SettingsError:
            yield Outside("published tables", "the rules do not hold, so which rows do not say whose they are is open")
            return
        for name, table in published.items():
            column = _column(table)
            if column and not next(c.published for c in plans[name].columns if c.column.name == column):
                yield Outside(name, "its rows do not say whose they are, so the patient's stay among them")


def refuse_naming(reason: str, names: Iterable[str]) -> None:
    """Stop where the words of a reason, which is kept for ever, hold one of a patient's ids, numbers or pseudonyms.

    Raises:
        InputError: they do; neither is echoed.
    """
    parts = {part for name in names for part in (name, name.rpartition("|")[2]) if part}
    if any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", reason, re.IGNORECASE) for part in parts):
        raise InputError("Reason names the patient", where="--reason", remedy="Give the request's number; it is kept.")


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
