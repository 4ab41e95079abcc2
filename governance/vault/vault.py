"""The vault: each patient's key, wrapped, and who is behind a pseudonym."""

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

    Every method that needs a key raises KeyRevoked when the key service took it away, and ServiceUnavailable when
    vault or key service do not answer. Then no key stays in memory, and the next call asks anew.
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
        """Open the vault; first of all what was erased since it was backed up is erased in it again.

        Args:
            store: its tables.
            key: ``vault`` of the key file: makes subjects and digests of record numbers.
            service: wraps the vault's keys.
            log: of erasures.
            seconds: a clock that only runs forward, for the lease of keys.
            used: is told each key of the service before what it wraps is used for the first time; if it raises, it is
                not used.

        Raises:
            PrivacyError: the log of erasures is not this vault's, or lacks entries.
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
        """Close it, and forget all keys."""
        self._lease.drop()
        self._store.close()

    def _forget(self) -> None:
        self._patients.forget()
        self._store_keys.forget()

    def hold_keys(self) -> None:
        """Make sure that the keys may be used now: the service was asked less than a second ago, or is asked.

        Raises:
            KeyRevoked: they may not.
            ServiceUnavailable: nobody can say.
        """
        self._lease.hold()

    def store_secret(self, name: str) -> bytes:
        """Return the key of a store beside the lake: 32 random bytes, made at first use, wrapped by the vault's key.

        Ask for it at each use: it is handed out under the lease of the vault's keys only.

        Args:
            name: of the store.
        """
        return self._store_keys.secret(self._lease, name)

    def check(self) -> None:
        """Ask the key service whether the keys may still be used.

        Raises:
            KeyRevoked: they may not.
            ServiceUnavailable: nobody can say.
        """
        self._lease.renew()

    @property
    def id(self) -> str:
        """Return its id: random, made once; a vault that is made in its place has another."""
        return str(self._store.read("SELECT id FROM vault")[0][0])

    @property
    def generation(self) -> int:
        """How many patients were erased, as of the last time that the lease was renewed."""
        self._lease.hold()
        return self._lease.generation

    # -- patients ------------------------------------------------------------------------------------------------

    def enrol(self, patients: Sequence[tuple[str, str]]) -> list[PatientKey | None]:
        """Return the key of each patient, made for those who are new; None: erased.

        Of several processes that meet a new patient at once the first makes the key, and all get that one.

        Args:
            patients: source id and pseudonym of each.
        """
        return self._patients.enrol(self._lease, patients)

    def secrets(self, subjects: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the keys of those subjects who are known and not erased."""
        return self._patients.secrets(self._lease, subjects)

    def subject_of(self, patient_id: str) -> bytes:
        """Return the subject of a source id: 16 bytes, always the same, known or not."""
        return self._patients.subject_of(patient_id)

    def subject_of_token(self, token: str) -> bytes | None:
        """Return the subject of a pseudonym, also of one that the patient had earlier; None: nobody has or had it."""
        return self._patients.subject_of_token(token)

    def patient_ids(self, subjects: Iterable[bytes]) -> dict[bytes, str]:
        """Return the source ids of those subjects who are known and not erased."""
        return self._patients.patient_ids(self._lease, subjects)

    def tokens(self) -> dict[bytes, str]:
        """Return the pseudonym of every subject that is not erased."""
        return self._patients.tokens()

    def knows(self, numbers: Iterable[str]) -> bool:
        """Return whether any of these is a source id or record number of somebody, erased or not; needs no key."""
        return self._patients.knows(numbers)

    def tokens_of(self, subject: bytes) -> set[str]:
        """Return a patient's pseudonym, and the earlier ones that are kept; nothing of who is not known, or erased."""
        return self._patients.tokens_of(self._lease, subject)

    def keep_former(self, version: str, token_of: Callable[[str], str]) -> int:
        """Keep, sealed, the pseudonyms that another key gives to all who are known; of who has one already it stays.

        Args:
            version: of the key.
            token_of: source id → pseudonym by that key.

        Returns:
            How many were kept now.
        """
        return self._patients.keep_former(self._lease, version, token_of)

    def retoken(self, token_of: Callable[[str], str]) -> int:
        """Give each patient the pseudonym that a new key makes, and keep the former one; killed, run it again.

        Args:
            token_of: source id → pseudonym.

        Returns:
            How many changed.
        """
        return self._patients.retoken(self._lease, token_of)

    def put(self, identities: Iterable[tuple[str, int, Identity]]) -> None:
        """Store identities; an older version never replaces a newer one, and of the erased nothing is stored.

        Args:
            identities: pseudonym, version, identity.
        """
        self._patients.put(self._lease, identities)

    def look_up(self, token: str) -> Identity | None:
        """Return who is behind a pseudonym; None: nobody known.

        Raises:
            PrivacyError: the entry was moved or changed.
        """
        self._lease.hold()
        return self._patients.look_up(self._lease, token)

    def version(self, token: str) -> int | None:
        """Return the version under which an identity is stored; None: none is."""
        return self._patients.version(token)

    def identities(self) -> Iterator[Identity]:
        """Yield who is behind every pseudonym: reads and opens all, some seconds where there are many."""
        self._lease.hold()
        return self._patients.identities(self._lease)

    def token_of_mrn(self, mrn: str) -> str | None:
        """Return the pseudonym of a medical record number; None: nobody has it."""
        self._lease.hold()
        return self._patients.token_of_mrn(mrn)

    # -- erasures ------------------------------------------------------------------------------------------------

    def hold(self, subject: bytes, reason: str, until: datetime | None = None) -> None:
        """Put a legal hold on a patient: erasing stops with the reason.

        Args:
            subject: whom.
            reason: in the officer's words; shown to whoever tries to erase, so it names nobody.
            until: its end; None: until it is released.

        Raises:
            InputError: the patient is not in the vault, or erased.
        """
        self._holds.put(self._lease, subject, reason, until)

    def release(self, subject: bytes) -> None:
        """Take a legal hold off."""
        self._holds.release(subject)

    def held(self, subject: bytes) -> Hold | None:
        """Return the legal hold that is on a patient now; None: none is."""
        return self._holds.get(self._lease, subject)

    def on_hold(self) -> list[bytes]:
        """Return every subject on whom there is a legal hold now; needs no key."""
        return self._holds.all()

    def refuse_held(self, subject: bytes) -> None:
        """Stop an erasure that a legal hold stands against.

        Raises:
            PrivacyError: with the reason.
        """
        with self._store.transaction() as transaction:
            self._holds.refuse(self._lease, transaction, subject)

    def erase(self, subject: bytes, certificate: str) -> Tombstone:
        """Destroy a patient's key and identity, on record in the log first; no byte of them stays in the vault's file.

        A patient who was never seen gets a tombstone too, and is never enrolled. Needs no key, unless there is a hold.

        Args:
            subject: whom.
            certificate: the id of the erasure's certificate.

        Returns:
            The tombstone; that of the first erasure, if there was one.

        Raises:
            PrivacyError: a legal hold stands against it; or the key is destroyed, and the database's user has no
                right to clean the files.
            ServiceUnavailable: log or vault cannot be written; call it again.
        """
        return self._erasures.erase(subject, certificate)

    def begin_erasure(
        self, subject: bytes, certificate: str, identifiers: Sequence[str], *, noted: Callable[[], None] = lambda: None
    ) -> Tombstone:
        """Destroy the key as ``erase`` does, and keep, sealed, what is needed to find the patient's other traces.

        Call it again when it was killed, with what is known by then; it stays pending until ``finish_erasure``.

        Args:
            subject: whom.
            certificate: the id of the erasure's certificate.
            identifiers: such as source id, pseudonyms, record number.
            noted: called once it is pending, before the key is destroyed.

        Raises:
            PrivacyError: a legal hold stands against it, or the certificate is of somebody else; nothing was done.
        """
        return self._erasures.begin(subject, certificate, identifiers, noted)

    def pending_erasures(self) -> list[PendingErasure]:
        """Return the erasures that were begun and not finished, oldest first."""
        return self._erasures.pending()

    def certificates_pending(self) -> set[str]:
        """Return the certificates of the erasures that were begun and not finished; needs no key."""
        return {str(certificate) for (certificate,) in self._store.read("SELECT certificate FROM pending")}

    def finish_erasure(self, certificate: str) -> None:
        """Forget what was kept to finish an erasure."""
        self._erasures.finish(certificate)

    def tombstone(self, subject: bytes) -> Tombstone | None:
        """Return when and under which certificate a patient was erased; None: not."""
        return self._erasures.tombstone(subject)

    def tombstones(self) -> list[Tombstone]:
        """Return what is left of everybody who was erased, oldest first; needs no key."""
        return self._erasures.tombstones()

    # -- keys ----------------------------------------------------------------------------------------------------

    def rotate(self, progress: Callable[[int], None] = lambda _: None) -> int:
        """Wrap every patient's key anew with a new key of a new version; destroy the old versions.

        Nothing outside the vault changes. Others read and write meanwhile. Killed, it goes on when it is called again.

        Args:
            progress: is told how many keys were wrapped.

        Returns:
            How many keys were wrapped.
        """
        return self._rotation.run(progress)

    def status(self) -> VaultStatus:
        """Return versions and counts; needs no key and tells no secret."""
        found = read_status(self._store)
        assert found is not None, "opening made its row"
        return found
