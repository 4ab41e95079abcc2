"""Forgets a patient: key first, so that every copy is unreadable at once; then the rows, in all zones and versions.

Each step is safe to repeat, and the vault keeps what is needed to go on until the last one is done: a killed erasure
is finished by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from governance.belonging.erasures import ErasureCopies
from governance.erasure.certificate import Certificate, TableErased, is_there, load, new_id, now, save
from governance.erasure.forgotten import forgotten_of
from governance.erasure.person import ErasedPerson
from governance.erasure.reasons import refuse_naming, refuse_others
from governance.policy.masks import Pseudonyms
from governance.vault import PendingErasure, Vault
from pipelines.erasure.identifiers import known_of
from pipelines.erasure.lake_store import Clearing
from pipelines.erasure.out_of_scope import outside
from pipelines.erasure.retention_duty import refuse_kept
from pipelines.people.linked_ids import linked_ids_of
from pipelines.people.patients import pseudonyms_of
from vitalake.errors import InputError, PrivacyError, VitaLakeError
from vitalake.failpoints import failpoint
from vitalake.folders import folder_lock
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings


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


class Eraser:
    """Erases patients of one home; used by one thread. Of several processes one works, and the others wait for it."""

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
            progress: told each step.
        """
        self._settings, self._keys, self._vault, self._tell = settings, keys, vault, progress
        self._clearing = Clearing(settings, keys, vault, progress=progress)
        self._folder = settings.path(settings.certificates)
        self._copies = ErasureCopies(settings, keys, open_storage(settings.lake_uri, settings.storage_options))

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
            failpoint("erase-begun")
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
            tables, elsewhere = self._clearing.of(self._wanted(patient, {}, reason="", actor="", begun_at=now()))
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
        wanted = ErasedPerson.unpacked(pending.identifiers)
        if not pending.destroyed:
            wanted = self._anew(pending, wanted)
        self._begin(wanted, pending.certificate)
        return self._finish(pending.certificate, self._with_others(wanted, pending.certificate), resumed=True)

    def _anew(self, pending: PendingErasure, noted: ErasedPerson) -> ErasedPerson:
        """Return what is known by now of somebody whose key is still there; drop the note where it is refused by now.

        Raises:
            PrivacyError: it is refused; nothing was done.
        """
        ids = {**noted.together, noted.ids[0]: pending.certificate}
        wanted = self._wanted(noted.ids[0], ids, reason=noted.reason, actor=noted.actor, begun_at=noted.begun_at)
        try:
            # Once the key of another number is gone, it is done for the reason that was taken then.
            begun = any(self._vault.tombstone(self._vault.subject_of(number)) for number in noted.together)
            self._refuse(wanted, words=not begun)
            if others := [number for number in self._numbers_of(noted.ids[0]) if number not in ids]:
                raise self._has_other_numbers(others)
        except (InputError, PrivacyError) as error:
            if error.transient:
                raise
            self._copies.unmark(pending.certificate)
            self._vault.finish_erasure(pending.certificate)
            raise PrivacyError(
                f"{error.what}; so {pending.certificate}, of which nothing was done, is dropped",
                where=error.where,
                remedy=f"{error.remedy} Then ask for it again.",
            ) from None
        return wanted

    def _with_others(self, wanted: ErasedPerson, certificate: str) -> ErasedPerson:
        """Begin the erasure of a patient's other numbers, where it was killed between them; leave out those refused."""
        ids = {**wanted.together, wanted.ids[0]: certificate}
        together = dict(wanted.together)
        for number, other in wanted.together.items():
            if self._vault.tombstone(self._vault.subject_of(number)) is None:
                try:
                    each = self._wanted(number, ids, reason=wanted.reason, actor=wanted.actor, begun_at=wanted.begun_at)
                    self._refuse(each, words=False)
                    self._begin(each, other)
                except PrivacyError as error:
                    if error.transient:
                        raise
                    del together[number]
        return replace(wanted, together=together)

    def _refuse(self, wanted: ErasedPerson, *, words: bool = True) -> None:
        """Stop where the words of the reason, a hold, or the duty to keep records stand against it.

        Args:
            wanted: of one number.
            words: whether the reason can still be said in others.
        """
        if words:
            self._refuse_words(wanted)
        Home(self._settings).lake().here()  # a table that nothing declares would keep the patient's rows
        subject = self._vault.subject_of(wanted.ids[0])
        if self._vault.tombstone(subject) is None:  # else it was decided, and is only gone on with
            self._vault.refuse_held(subject)
            refuse_kept(self._settings, self._vault, self._keys, subject)

    def refuse_words(self, patient: str, reason: str) -> None:
        """Stop where a reason holds what names a patient, or the other numbers of the same person.

        Args:
            patient: pseudonym or id.
            reason: in the officer's words.

        Raises:
            InputError: it does; it is not echoed.
        """
        for number in self._numbers_of(patient):
            self._refuse_words(self._wanted(number, {}, reason=reason, actor="", begun_at=""))

    def _refuse_words(self, wanted: ErasedPerson) -> None:
        identities = [who for token in wanted.tokens if (who := self._vault.look_up(token))]
        refuse_naming(wanted.reason, (*wanted.ids, *wanted.tokens), identities)
        refuse_others(wanted.reason, self._vault)  # no erasure of theirs would reach it

    def _begin(self, wanted: ErasedPerson, certificate: str) -> None:
        # Before the key goes: a home that is put back, and has no certificate, must find the rows by it. And once it is
        # pending: a mark of what is neither pending nor in the log tells that the log was lost.
        stone = self._vault.begin_erasure(
            self._vault.subject_of(wanted.ids[0]),
            certificate,
            wanted.packed(),
            noted=lambda: self._copies.mark(certificate, wanted.digests),
        )
        if stone.certificate != certificate:  # of whom the log has another
            self._copies.unmark(certificate)
        self._copies.keep(self._vault, put_back=True)

    def _certificate_of(self, patient: str) -> str:
        stone = self._vault.tombstone(self._vault.subject_of(patient))
        return stone.certificate if stone else new_id()

    def _id_of(self, patient: str) -> str:
        """Return the source id of a pseudonym; what is none, or nobody's any more, is an id."""
        subject = self._vault.subject_of_token(patient)
        return self._vault.patient_ids([subject]).get(subject, patient) if subject else patient

    def _numbers_of(self, patient: str) -> list[str]:
        return linked_ids_of(self._settings, self._keys, self._vault).of(self._id_of(patient))

    def _has_other_numbers(self, numbers: Sequence[str]) -> PrivacyError:
        token_of = Pseudonyms(self._keys, "patient-identifier").token
        return PrivacyError(
            f"Patient has other numbers ({', '.join(map(token_of, numbers))})",
            where="merges of admissions",
            remedy="One alone cannot be forgotten: with --all-numbers all are, each with a certificate.",
        )

    def _wanted(self, patient: str, ids: Mapping[str, str], *, reason: str, actor: str, begun_at: str) -> ErasedPerson:
        """Return what is known of an id; of whom the vault has no key, what the id tells.

        Args:
            patient: as the source writes it.
            ids: certificates, of this and the patient's other numbers.
            reason: in the officer's words.
            actor: who asked for it.
            begun_at: ISO.
        """
        subject = self._vault.subject_of(patient)
        tokens = pseudonyms_of(self._keys, self._vault, patient)
        identity = next((found for token in tokens if (found := self._vault.look_up(token))), None)
        told = known_of(self._settings, self._vault, subject)
        numbers = sorted(told["medical-record-number"] | ({identity.mrn} if identity and identity.mrn else set()))
        others = {number: certificate for number, certificate in ids.items() if number != patient}
        stays = tuple(sorted(told["encounter-identifier"]))
        return ErasedPerson((patient, *numbers), tuple(sorted(tokens)), reason, actor, begun_at, others, stays)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else erase meanwhile, who would finish what is under way and write another certificate of it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with folder_lock(self._folder):
            yield

    def reapply(self, certificates: Sequence[Certificate]) -> Reapplied:
        """Erase again who was erased before: a back-up of lake, care store or scores may have brought them back.

        Who that is the vault's tombstones say, which are those of the log, and the certificates, which alone know
        pseudonyms.

        Args:
            certificates: of all of them.
        """
        stones = {stone.subject: stone.certificate for stone in self._vault.tombstones()}
        certified = {bytes.fromhex(certificate.subject) for certificate in certificates}
        forgotten = forgotten_of(self._copies, certificates)
        with self._alone():
            tables, elsewhere = self._clearing.again(sorted(stones.keys() | certified), forgotten)
            told = certified | {subject for subject, name in stones.items() if name in forgotten.marked}
            if stones.keys() <= told:
                self._copies.keep(self._vault, put_back=True)
        return Reapplied(
            [table for table in tables if table.rows or table.files_deleted],
            elsewhere,
            len(stones.keys() | certified),
            sorted(stones[subject] for subject in stones.keys() - told),
        )

    # -- doing it ------------------------------------------------------------------------------------------------

    def _finish(self, certificate: str, wanted: ErasedPerson, *, resumed: bool = False) -> Certificate:
        tables, elsewhere = self._clearing.of(wanted)
        failpoint("erase-elsewhere")
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
            outside=tuple(outside(self._settings, self._keys)),
            resumed=resumed,
            together=tuple(wanted.together.values()),
        )
        save(self._folder, done)
        failpoint("erase-certified")
        self._vault.finish_erasure(certificate)
        return done
