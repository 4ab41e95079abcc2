"""The vault: each patient's key, wrapped, and the identity behind each pseudonym."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from governance.keyservice import KeyService
from governance.vault.erasure_log import ErasureLog
from governance.vault.erasures import Erasures
from governance.vault.holds import Holds
from governance.vault.lease import Lease, boot_seconds
from governance.vault.patients import Patients
from governance.vault.records import Hold, Identity, PatientKey, PendingErasure, Tombstone
from governance.vault.rotation import Rotation
from governance.vault.status import VaultStatus, read_status
from governance.vault.store import Store
from governance.vault.store_keys import StoreKeys
from vitalake.keys import Key


class Vault:
    """An open vault; used by one thread at a time, by any number of processes.

    Every method that needs a key raises KeyRevoked when the key service has taken it away, and ServiceUnavailable when
    vault or key service do not answer. Then no key stays in memory, and the next call asks again.
    """

    def __init__(
        self,
        store: Store,
        key: Key,
        service: KeyService,
        log: ErasureLog,
        *,
        seconds: Callable[[], float] = boot_seconds,
        used: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open the vault, and first erase again every patient who was erased since the vault was backed up.

        Args:
            store: its database.
            key: ``vault`` of the key file, for subjects and digests of record numbers.
            service: wraps the vault's keys.
            log: the erasure log.
            seconds: a clock that only runs forward, for the lease of keys.
            used: called with the id of each key of the service, before anything it wraps is used for the first time; if
                it raises, nothing is used.

        Raises:
            PrivacyError: the erasure log belongs to another vault, or lacks entries.
            ServiceUnavailable: vault or log cannot be read.
        """
        self._store = store
        self._patients = Patients(store, key.secret)
        self._store_keys = StoreKeys(store)
        self._lease = Lease(store, service, forget=self._forget, seconds=seconds, used=used)
        if not store.read("SELECT id FROM vault"):
            with store.transaction() as transaction:
                first = (1, secrets.token_hex(8), 0, "", 0, 0)
                columns = ("one", "id", "erasures", "log_head", "rotating", "scrub")
                transaction.insert_new("vault", columns, [first])
        self._holds = Holds(store, self._patients)
        self._erasures = Erasures(store, self._lease, log, self._holds)
        self._rotation = Rotation(store, self._lease, service, log)
        self._erasures.reapply()

    def close(self) -> None:
        """Drop all keys from memory, and close the database."""
        self._lease.drop()
        self._store.close()

    def _forget(self) -> None:
        self._patients.forget()
        self._store_keys.forget()

    def hold_keys(self) -> None:
        """Make sure that the keys may be used now; ask the service if it was last asked a second ago or more.

        Raises:
            KeyRevoked: the key service has taken them away.
            ServiceUnavailable: the key service does not answer.
        """
        self._lease.hold()

    def store_secret(self, name: str) -> bytes:
        """Return the key of a store beside the lake: 32 random bytes, made at first use, wrapped by the vault's key.

        Ask for it before each use: it may be used only under the lease of the vault's keys.

        Args:
            name: of the store.
        """
        return self._store_keys.secret(self._lease, name)

    def check(self) -> None:
        """Ask the key service whether the keys may still be used.

        Raises:
            KeyRevoked: the key service has taken them away.
            ServiceUnavailable: the key service does not answer.
        """
        self._lease.renew()

    @property
    def id(self) -> str:
        """Return the vault's id: random, made once. A new vault in its place has another id."""
        return str(self._store.read("SELECT id FROM vault")[0][0])

    @property
    def generation(self) -> int:
        """How many patients were erased, as of the last time that the lease was renewed."""
        self._lease.hold()
        return self._lease.generation

    # -- patients ------------------------------------------------------------------------------------------------

    def enrol(self, patients: Sequence[tuple[str, str]]) -> list[PatientKey | None]:
        """Return the key of each patient, and make one for new patients; None: the patient is erased.

        If several processes enrol a new patient at once, the first one makes the key, and all get that key.

        Args:
            patients: (source id, pseudonym) of each.
        """
        return self._patients.enrol(self._lease, patients)

    def secrets(self, subjects: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the keys of the subjects who are known and not erased."""
        return self._patients.secrets(self._lease, subjects)

    def subject_of(self, patient_id: str) -> bytes:
        """Return the subject of a source id: 16 bytes, always the same, whether or not the patient is known."""
        return self._patients.subject_of(patient_id)

    def subject_of_token(self, token: str) -> bytes | None:
        """Return the subject of a current or former pseudonym; None: nobody has or had it."""
        return self._patients.subject_of_token(token)

    def patient_ids(self, subjects: Iterable[bytes]) -> dict[bytes, str]:
        """Return the source ids of the subjects who are known and not erased."""
        return self._patients.patient_ids(self._lease, subjects)

    def tokens(self) -> dict[bytes, str]:
        """Return the pseudonym of every subject that is not erased."""
        return self._patients.tokens()

    def knows(self, numbers: Iterable[str]) -> bool:
        """Return whether any of these is a patient's source id or record number; needs no key.

        Of an erased patient only the source id is still recognised.
        """
        return self._patients.knows(numbers)

    def tokens_of(self, subject: bytes) -> set[str]:
        """Return a patient's pseudonym and the kept former ones; none if the patient is not known, or is erased."""
        return self._patients.tokens_of(self._lease, subject)

    def keep_former(self, version: str, token_of: Callable[[str], str]) -> int:
        """Keep, sealed, the pseudonym that another key gives to each known patient; one that is kept already stays.

        Args:
            version: of the key.
            token_of: source id → pseudonym by that key.

        Returns:
            How many were added.
        """
        return self._patients.keep_former(self._lease, version, token_of)

    def retoken(self, token_of: Callable[[str], str]) -> int:
        """Give each patient the pseudonym of a new key, and keep the former one; after an interruption, call it again.

        Args:
            token_of: source id → pseudonym.

        Returns:
            How many changed.
        """
        return self._patients.retoken(self._lease, token_of)

    def put(self, identities: Iterable[tuple[str, int, Identity]]) -> None:
        """Store identities; an older version never replaces a newer one, and nothing is stored of erased patients.

        Args:
            identities: (pseudonym, version, identity) of each.
        """
        self._patients.put(self._lease, identities)

    def look_up(self, token: str) -> Identity | None:
        """Return the identity behind a pseudonym; None: none is known.

        Raises:
            PrivacyError: the entry was moved or changed.
        """
        self._lease.hold()
        return self._patients.look_up(self._lease, token)

    def version(self, token: str) -> int | None:
        """Return the version of a stored identity; None: none is stored."""
        return self._patients.version(token)

    def identities(self) -> Iterator[Identity]:
        """Yield every identity. It opens all of them, which takes seconds in a large vault."""
        self._lease.hold()
        return self._patients.identities(self._lease)

    def token_of_mrn(self, mrn: str) -> str | None:
        """Return the pseudonym of a medical record number; None: nobody has it."""
        self._lease.hold()
        return self._patients.token_of_mrn(mrn)

    # -- erasures ------------------------------------------------------------------------------------------------

    def hold(self, subject: bytes, reason: str, until: datetime | None = None) -> Hold | None:
        """Put a legal hold on a patient: an erasure is refused with the reason while any hold of the patient lasts.

        Args:
            subject: of the patient.
            reason: in the officer's words; shown to everybody who tries to erase the patient, so it must name nobody.
            until: its end; None: until it is released.

        Returns:
            The hold with the same reason, whose end was replaced; None: this is another hold.

        Raises:
            InputError: the patient is not in the vault, or is erased; or the hold would be over already.
        """
        return self._holds.put(self._lease, subject, reason, until)

    def release(self, subject: bytes, reason: str | None = None) -> list[Hold]:
        """End one of a patient's legal holds, and return those that remain.

        Args:
            subject: of the patient.
            reason: of the hold; None: the patient has only one.

        Raises:
            InputError: there is no such hold, or there are several and no reason is given; nothing is changed.
        """
        return self._holds.release(self._lease, subject, reason)

    def holds(self, subject: bytes) -> list[Hold]:
        """Return a patient's legal holds that have not ended, in the order in which they were set."""
        return self._holds.get(self._lease, subject)

    def on_hold(self) -> list[bytes]:
        """Return the subjects with a legal hold that has not ended; needs no key."""
        return self._holds.all()

    def refuse_held(self, subject: bytes) -> None:
        """Refuse to erase a patient who is under a legal hold.

        Raises:
            PrivacyError: gives the reason of each hold.
        """
        with self._store.transaction() as transaction:
            self._holds.refuse(self._lease, transaction, subject)

    def erase(self, subject: bytes, certificate: str) -> Tombstone:
        """Write an entry into the erasure log, then destroy a patient's key and identity, with every byte in the file.

        A patient who was never seen gets a tombstone too, and is never enrolled. Needs no key, unless there is a hold.

        Args:
            subject: of the patient.
            certificate: the id of the erasure's certificate.

        Returns:
            The tombstone; the first one, if the patient was erased before.

        Raises:
            PrivacyError: a legal hold forbids it; or the key is destroyed, but the database user may not clean the
                files.
            ServiceUnavailable: log or vault cannot be written; call it again.
        """
        return self._erasures.erase(subject, certificate)

    def begin_erasure(
        self, subject: bytes, certificate: str, identifiers: Sequence[str], *, noted: Callable[[], None] = lambda: None
    ) -> Tombstone:
        """Destroy the key as ``erase`` does, and keep, sealed, what is needed to find the patient's other traces.

        After an interruption, call it again with what is known by then. It stays pending until ``finish_erasure``.

        Args:
            subject: of the patient.
            certificate: the id of the erasure's certificate.
            identifiers: such as source id, pseudonyms, record number.
            noted: called when the erasure is pending, before the key is destroyed.

        Raises:
            PrivacyError: a legal hold forbids it, or the certificate belongs to another patient; nothing was done.
        """
        return self._erasures.begin(subject, certificate, identifiers, noted)

    def pending_erasures(self) -> list[PendingErasure]:
        """Return the erasures that were begun and not finished, oldest first."""
        return self._erasures.pending()

    def certificates_pending(self) -> set[str]:
        """Return the certificates of the erasures that were begun and not finished; needs no key."""
        return {str(certificate) for (certificate,) in self._store.read("SELECT certificate FROM pending")}

    def finish_erasure(self, certificate: str) -> None:
        """Delete what was kept to finish an erasure."""
        self._erasures.finish(certificate)

    def tombstone(self, subject: bytes) -> Tombstone | None:
        """Return the tombstone of an erased patient; None: the patient is not erased."""
        return self._erasures.tombstone(subject)

    def tombstones(self) -> list[Tombstone]:
        """Return the tombstones of all erased patients, oldest first; needs no key."""
        return self._erasures.tombstones()

    # -- keys ----------------------------------------------------------------------------------------------------

    def rotate(self, progress: Callable[[int], None] = lambda _: None) -> int:
        """Wrap every patient's key with a new version of the vault's key, and destroy the old versions.

        Nothing outside the vault changes, and others read and write meanwhile. After an interruption, the next call
        continues.

        Args:
            progress: called with the number of keys wrapped so far.

        Returns:
            How many keys were wrapped.
        """
        return self._rotation.run(progress)

    def status(self) -> VaultStatus:
        """Return key versions and counts; needs no key, and reveals no secret."""
        status = read_status(self._store)
        assert status is not None, "opening made its row"
        return status
