"""Erases a patient: the key first, so that every copy is unreadable at once; then the rows, in all zones and versions.

Each step is safe to repeat. Until the last step is done, the vault keeps what is needed to continue: the next erasure
finishes an interrupted one first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from governance.belonging.erasures import ErasureCopies
from governance.erasure.alone import erasures_locked
from governance.erasure.certificate import Certificate, TableErased, is_there, load, new_id, now, save
from governance.erasure.forgotten import forgotten_of
from governance.erasure.person import ErasedPerson
from governance.erasure.reasons import refuse_naming, refuse_others
from governance.policy.masks import Pseudonyms
from governance.vault import PendingErasure, Vault
from pipelines.erasure.identifiers import identifiers_of
from pipelines.erasure.out_of_scope import places_out_of_scope
from pipelines.erasure.patient_removal import Holdings, PatientRemoval
from pipelines.erasure.retention_duty import refuse_before_retention_ends
from pipelines.people.linked_ids import linked_ids_of
from pipelines.people.patients import pseudonyms_of
from vitalake.errors import InputError, PrivacyError, ServiceUnavailable, VitaLakeError
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings


@dataclass(frozen=True, slots=True)
class Reapplied:
    """What was erased again after a restore.

    Attributes:
        tables: those in which something was found.
        elsewhere: name of a store → how many entries were removed.
        erasures: how many patients are erased in all.
        uncertified: ids of certificates that are missing, so that the published rows of these erasures are not known.
    """

    tables: list[TableErased]
    elsewhere: dict[str, int]
    erasures: int
    uncertified: list[str]


class Unfinished(NamedTuple):
    """An interrupted erasure that could not be finished.

    Attributes:
        certificate: the id of its certificate.
        error: what stopped it.
    """

    certificate: str
    error: VitaLakeError


class Eraser:
    """Erases patients of one home; used by one thread. Only one process erases at a time; the others wait for it."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyRing,
        vault: Vault,
        *,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare.

        Args:
            settings: of the home.
            keys: the home's.
            vault: opened.
            progress: called with the name of each step.
        """
        self._settings, self._keys, self._vault, self._tell = settings, keys, vault, progress
        self._removal = PatientRemoval(settings, keys, vault, progress=progress)
        self._folder = settings.path(settings.certificates)
        self._copies = ErasureCopies(settings, keys, open_storage(settings.lake_uri, settings.storage_options))

    # -- what an officer asks for --------------------------------------------------------------------------------

    def subject_of(self, patient: str, *, unknown: bool = False) -> bytes:
        """Return the subject of a pseudonym, or of an id as the source writes it.

        Args:
            patient: pseudonym or id.
            unknown: accept an id that the vault does not know.

        Raises:
            InputError: no patient has it. The error does not repeat it.
        """
        subject = self._vault.subject_of_token(patient) or self._vault.subject_of(patient)
        if not (unknown or self._vault.patient_ids([subject]) or self._vault.tombstone(subject)):
            raise InputError(
                "No patient has this pseudonym or id",
                where="patient",
                remedy="Give the pseudonym as the board shows it, or the id as the source writes it. If every message "
                "with this id was rejected, run 'vitalake patient erase' with --unknown.",
            )
        return subject

    def tokens_of(self, patient: str, *, all_numbers: bool = False) -> list[str]:
        """Return a patient's pseudonyms, for the audit; none if the patient is erased or not known.

        Args:
            patient: pseudonym or id.
            all_numbers: also those of the patient's other numbers.
        """
        numbers = self._numbers_of(patient) if all_numbers else [self._id_of(patient)]
        subjects = {self._vault.subject_of(number) for number in numbers}
        return [token for known, token in self._vault.tokens().items() if known in subjects]

    def find(self, patient: str) -> list[Holdings]:
        """Count what tables and stores have of a patient, under each of the patient's numbers; change nothing.

        Args:
            patient: pseudonym or id.

        Raises:
            VitaLakeError: something cannot be reached.
        """
        numbers = self._numbers_of(patient)
        return [self._removal.find(self._person(n, {}, reason="", actor="", begun_at="")) for n in numbers]

    def forgotten(self, patient: str) -> str | None:
        """Return the certificate of a patient who is erased already; None: not erased, or none was written."""
        stone = self._vault.tombstone(self._vault.subject_of(patient))
        return stone.certificate if stone and is_there(self._folder, stone.certificate) else None

    def erase(
        self, patient: str, *, reason: str, actor: str, all_numbers: bool = False, unknown: bool = False
    ) -> Certificate:
        """Erase a patient, write the certificate, and return it.

        If the vault's tombstone names a certificate that does not exist, as after a restore, the erasure is completed
        under that certificate's id.

        Args:
            patient: pseudonym, or id as the source writes it.
            reason: in the officer's words; it must not name anybody.
            actor: the account that erases.
            all_numbers: also erase the patient's other numbers, as merge messages report; each gets a certificate.
            unknown: also accept an id that the vault does not know, because rejected messages may name it.

        Raises:
            InputError: no patient has this pseudonym or id, or the reason names a patient.
            PrivacyError: a legal hold, the duty to keep records, or another number of the patient forbids it, or the
                patient is already erased; nothing was done.
            VitaLakeError: something cannot be reached; ``finish`` does the rest later.
        """
        with self._alone():
            self.subject_of(patient, unknown=unknown)
            if certificate := self.forgotten(patient):
                raise PrivacyError(
                    "Patient is already erased",
                    where=certificate,
                    remedy="Run 'vitalake patient certificate' with this id to see what was done.",
                )
            numbers = self._numbers_of(patient)
            if len(numbers) > 1 and not all_numbers:
                raise self._has_other_numbers(numbers[1:])
            ids = {number: self._certificate_of(number) for number in numbers}
            persons = [self._person(number, ids, reason=reason, actor=actor, begun_at=now()) for number in numbers]
            resumed = self._vault.tombstone(self._vault.subject_of(numbers[0])) is not None
            for person in persons:
                self._refuse(person)
            self._tell("Destroying the key")
            for person in persons:
                self._begin(person, ids[person.ids[0]])
            failpoint("erase-begun")
            done = [self._finish(ids[person.ids[0]], person, resumed=resumed) for person in persons]
            return done[0]

    def erase_late_arrivals(self, patient: str) -> tuple[list[TableErased], dict[str, int]]:
        """Remove what arrived of a patient after the erasure, such as messages that were rejected.

        Args:
            patient: id as the source writes it.

        Returns:
            The tables from which something was removed, and how many entries were removed from each store.
        """
        with self._alone():
            tables, elsewhere = self._removal.clear(self._person(patient, {}, reason="", actor="", begun_at=now()))
            return [table for table in tables if table.rows or table.files_deleted], elsewhere

    def finish(self) -> tuple[list[Certificate], list[Unfinished]]:
        """Finish erasures that were interrupted; one that fails does not stop the others.

        Returns:
            The certificates of the finished ones, and those that could not be finished.

        Raises:
            VitaLakeError: the vault does not tell which were interrupted; nothing was done.
        """
        done: list[Certificate] = []
        failed: list[Unfinished] = []
        tried: set[str] = set()
        with self._alone():
            pending = self._vault.pending_erasures()
            while pending:
                first, *pending = pending
                tried.add(first.certificate)
                try:
                    done.append(self._go_on(first))
                except VitaLakeError as error:
                    failed.append(Unfinished(first.certificate, error))
                try:  # again: an erasure begins those of the patient's other numbers
                    pending = [one for one in self._vault.pending_erasures() if one.certificate not in tried]
                except VitaLakeError as error:  # what was done until now must still be told
                    failed += [Unfinished(one.certificate, error) for one in pending]
                    break
        return done, failed

    def _go_on(self, pending: PendingErasure) -> Certificate:
        if is_there(self._folder, pending.certificate):  # killed after it was written
            self._vault.finish_erasure(pending.certificate)
            return load(self._folder, pending.certificate)
        person = ErasedPerson.unpacked(pending.identifiers)
        if not pending.destroyed:
            person = self._checked_again(pending, person)
        self._begin(person, pending.certificate)
        return self._finish(pending.certificate, self._with_others(person, pending.certificate), resumed=True)

    def _checked_again(self, pending: PendingErasure, noted: ErasedPerson) -> ErasedPerson:
        """Return the patient as the vault and the lake know them today, if the key is not destroyed yet.

        If something forbids the erasure by now, it is cancelled: its note in the vault and its marks are deleted.

        Raises:
            PrivacyError: the erasure is forbidden; nothing was done.
        """
        ids = {**noted.together, noted.ids[0]: pending.certificate}
        person = self._person(noted.ids[0], ids, reason=noted.reason, actor=noted.actor, begun_at=noted.begun_at)
        try:
            # Once the key of one number is destroyed, the others follow with the reason that was accepted then.
            begun = any(self._vault.tombstone(self._vault.subject_of(number)) for number in noted.together)
            self._refuse(person, words=not begun)
            if others := [number for number in self._numbers_of(noted.ids[0]) if number not in ids]:
                raise self._has_other_numbers(others)
        except (InputError, PrivacyError) as error:
            if error.transient:
                raise
            self._copies.unmark(pending.certificate)
            self._vault.finish_erasure(pending.certificate)
            raise PrivacyError(
                f"{error.what}; the interrupted erasure {pending.certificate} had deleted nothing and is cancelled",
                where=error.where,
                remedy=f"{error.remedy} Then request the erasure again.",
            ) from None
        return person

    def _with_others(self, person: ErasedPerson, certificate: str) -> ErasedPerson:
        """Begin the erasure of the other numbers that an interruption left out; skip those that are forbidden."""
        ids = {**person.together, person.ids[0]: certificate}
        together = dict(person.together)
        for number, other in person.together.items():
            if self._vault.tombstone(self._vault.subject_of(number)) is None:
                try:
                    known = self._person(
                        number, ids, reason=person.reason, actor=person.actor, begun_at=person.begun_at
                    )
                    self._refuse(known, words=False)
                    self._begin(known, other)
                except PrivacyError as error:
                    if error.transient:
                        raise
                    del together[number]
        return replace(person, together=together)

    def _refuse(self, person: ErasedPerson, *, words: bool = True) -> None:
        """Stop an erasure whose reason names somebody, or that a legal hold or the duty to keep records forbids.

        Args:
            person: the patient under one number.
            words: whether to check the reason; not when it was accepted before and can no longer be changed.
        """
        if words:
            self._refuse_words(person)
        Home(self._settings).lake().here()  # refuses a table that no dataset declares: it would keep the patient's rows
        subject = self._vault.subject_of(person.ids[0])
        if self._vault.tombstone(subject) is None:  # else the key is destroyed, and the erasure can only be finished
            self._vault.refuse_held(subject)
            refuse_before_retention_ends(self._settings, self._vault, self._keys, subject)

    def refuse_words(self, patient: str, reason: str) -> None:
        """Refuse a reason that names this patient, under any of their numbers, or any other patient.

        Args:
            patient: pseudonym or id.
            reason: in the officer's words.

        Raises:
            InputError: the reason names a patient. The error does not repeat it.
        """
        for number in self._numbers_of(patient):
            self._refuse_words(self._person(number, {}, reason=reason, actor="", begun_at=""))

    def _refuse_words(self, person: ErasedPerson) -> None:
        identities = [who for token in person.tokens if (who := self._vault.look_up(token))]
        refuse_naming(person.reason, (*person.ids, *person.tokens), identities)
        refuse_others(person.reason, self._vault)  # an erasure of the other patient would not reach this certificate

    def _begin(self, person: ErasedPerson, certificate: str) -> None:
        # The mark is written before the key is destroyed: a restored home without the certificate finds the rows by it.
        # It is written after the erasure is pending: a mark that is neither pending nor in the log shows that the log
        # was lost.
        stone = self._vault.begin_erasure(
            self._vault.subject_of(person.ids[0]),
            certificate,
            person.packed(),
            noted=lambda: self._copies.mark(certificate, person.digests),
        )
        if stone.certificate != certificate:  # the log has an earlier erasure of this patient
            self._copies.unmark(certificate)
        self._copies.update(self._vault, allow_restored_lake=True)

    def _certificate_of(self, patient: str) -> str:
        stone = self._vault.tombstone(self._vault.subject_of(patient))
        return stone.certificate if stone else new_id()

    def _id_of(self, patient: str) -> str:
        """Return the source id of a pseudonym; a text that is no living patient's pseudonym is taken for an id."""
        subject = self._vault.subject_of_token(patient)
        return self._vault.patient_ids([subject]).get(subject, patient) if subject else patient

    def _numbers_of(self, patient: str) -> list[str]:
        return linked_ids_of(self._settings, self._keys, self._vault).of(self._id_of(patient))

    def _has_other_numbers(self, numbers: Sequence[str]) -> PrivacyError:
        token_of = Pseudonyms(self._keys, "patient-identifier").token
        return PrivacyError(
            f"Patient has other numbers ({', '.join(map(token_of, numbers))})",
            where="merges of admissions",
            remedy="One number alone cannot be erased. Use --all-numbers to erase all; each gets a certificate.",
        )

    def _person(self, patient: str, ids: Mapping[str, str], *, reason: str, actor: str, begun_at: str) -> ErasedPerson:
        """Return everything that identifies a patient; without a key in the vault, only what follows from the id.

        Args:
            patient: id as the source writes it.
            ids: number → certificate, for this and the patient's other numbers.
            reason: in the officer's words.
            actor: the account that asked for the erasure.
            begun_at: ISO.
        """
        subject = self._vault.subject_of(patient)
        tokens = pseudonyms_of(self._keys, self._vault, patient)
        identity = next((known for token in tokens if (known := self._vault.look_up(token))), None)
        by_class = identifiers_of(self._settings, self._vault, subject)
        numbers = sorted(by_class["medical-record-number"] | ({identity.mrn} if identity and identity.mrn else set()))
        others = {number: certificate for number, certificate in ids.items() if number != patient}
        stays = tuple(sorted(by_class["encounter-identifier"]))
        return ErasedPerson((patient, *numbers), tuple(sorted(tokens)), reason, actor, begun_at, others, stays)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from erasing, and a re-key from giving patients pseudonyms that are not looked for.

        Raises:
            ServiceUnavailable: a re-key has done so since the keys were read; nothing was done.
        """
        with erasures_locked(self._settings):
            if Home(self._settings).keys.versions("pseudonym") != self._keys.versions("pseudonym"):
                raise ServiceUnavailable(
                    "The pseudonym key was changed meanwhile", where="pseudonym", remedy="Start the command again."
                )
            yield

    def reapply(self, certificates: Sequence[Certificate]) -> Reapplied:
        """Erase again every patient erased before: a restored lake, online store or book of scores may hold them again.

        The vault's tombstones and the certificates say who was erased. Pseudonyms are found by the certificates and by
        the marks beside the copies of the erasure log.

        Args:
            certificates: all that exist.
        """
        stones = {stone.subject: stone.certificate for stone in self._vault.tombstones()}
        certified = {bytes.fromhex(certificate.subject) for certificate in certificates}
        forgotten = forgotten_of(self._copies, certificates)
        with self._alone():
            tables, elsewhere = self._removal.clear_again(sorted(stones.keys() | certified), forgotten)
            findable = certified | {subject for subject, name in stones.items() if name in forgotten.marked}
            if stones.keys() <= findable:
                self._copies.update(self._vault, allow_restored_lake=True)
        return Reapplied(
            [table for table in tables if table.rows or table.files_deleted],
            elsewhere,
            len(stones.keys() | certified),
            sorted(stones[subject] for subject in stones.keys() - findable),
        )

    # -- doing it ------------------------------------------------------------------------------------------------

    def _finish(self, certificate: str, person: ErasedPerson, *, resumed: bool = False) -> Certificate:
        tables, elsewhere = self._removal.clear(person)
        failpoint("erase-elsewhere")
        done = Certificate(
            id=certificate,
            subject=self._vault.subject_of(person.ids[0]).hex(),
            tokens=person.digests,
            reason=person.reason,
            actor=person.actor,
            begun_at=person.begun_at,
            finished_at=now(),
            tables=tuple(tables),
            elsewhere=elsewhere,
            outside=tuple(places_out_of_scope(self._settings, self._keys)),
            resumed=resumed,
            together=tuple(person.together.values()),
        )
        save(self._folder, done)
        failpoint("erase-certified")
        self._vault.finish_erasure(certificate)
        return done
