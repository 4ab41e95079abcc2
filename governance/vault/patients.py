"""Patients in the vault: their keys, pseudonyms and identities."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.vault.lease import Lease
from governance.vault.records import Identity, PatientKey
from governance.vault.seals import KEY_BYTES, seal, unseal
from governance.vault.store import Row, Store, Transaction, chunks
from vitalake import clock

SUBJECT_BYTES = 16

CACHE_PATIENTS = 500_000
"""Most keys kept in memory, about 300 bytes each; beyond it all are dropped, and read again when they are needed."""

_FORMER = ("subject", "key_version", "digest", "sealed")
_NEW = ("subject", "token", "vault_key", "wrapped", "source_id", "made_us")


class Patients:
    """The table of patients, and their opened keys in memory; the caller holds the lease."""

    def __init__(self, store: Store, secret: bytes) -> None:
        """Prepare.

        Args:
            store: the vault's tables.
            secret: of the key ``vault``, for subjects and digests of record numbers; it never changes.
        """
        self._store, self._secret = store, secret
        self._by_id: dict[str, PatientKey | None] = {}
        self._by_subject: dict[bytes, bytes] = {}

    def forget(self) -> None:
        """Drop all keys from memory."""
        self._by_id, self._by_subject = {}, {}

    def subject_of(self, patient_id: str) -> bytes:
        """Return the subject of a source id."""
        return hmac.digest(self._secret, b"subject\0" + patient_id.encode(), hashlib.sha256)[:SUBJECT_BYTES]

    # -- keys ----------------------------------------------------------------------------------------------------

    def enrol(self, lease: Lease, patients: Sequence[tuple[str, str]]) -> list[PatientKey | None]:
        """Return the key of each patient; see Vault.enrol."""
        while True:
            lease.hold()
            # Keys dropped meanwhile must not come back into the caches: these are the caches as of this generation.
            generation, known, by_subject = lease.generation, self._by_id, self._by_subject
            missing = {patient: token for patient, token in patients if patient not in known}
            for chunk in chunks(missing.items()):
                lease.hold()
                found = self._enrol(lease, chunk)
                known |= found
                by_subject |= {key.subject: key.secret for key in found.values() if key}
            if lease.generation == generation and known is self._by_id:
                keys = [known[patient] for patient, _ in patients]
                if len(known) > CACHE_PATIENTS:
                    self.forget()
                return keys

    def _enrol(self, lease: Lease, patients: Sequence[tuple[str, str]]) -> dict[str, PatientKey | None]:
        subjects = {self.subject_of(patient): (patient, token) for patient, token in patients}
        rows = self._keys_of(self._store.read, list(subjects))
        unseen = sorted(subjects.keys() - rows.keys())  # sorted: two writers must not deadlock
        made: dict[bytes, bytes] = {}
        if unseen:
            with self._store.transaction() as transaction:
                lease.writing(transaction)
                made = dict(zip(unseen, _slices(os.urandom(KEY_BYTES * len(unseen))), strict=True))
                new = [_new_row(lease, subject, *subjects[subject], made[subject]) for subject in unseen]
                transaction.insert_new("patient", _NEW, new)
                stored = self._keys_of(transaction.run, unseen)
            ours = {row[0] for row in new if stored[row[0]][1] == row[3]}
            made = {subject: secret for subject, secret in made.items() if subject in ours}
            rows |= stored
        found: dict[str, PatientKey | None] = {}
        for subject, (patient, _) in subjects.items():
            secret = made.get(subject) or _opened(lease, subject, *rows[subject])
            found[patient] = PatientKey(subject, secret) if secret else None
        return found

    def secrets(self, lease: Lease, subjects: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the keys of the subjects who are known and not erased."""
        while True:
            lease.hold()
            generation, known, wanted = lease.generation, self._by_subject, list(subjects)
            for chunk in chunks(subject for subject in wanted if subject not in known):
                lease.hold()
                for subject, row in self._keys_of(self._store.read, chunk).items():
                    if secret := _opened(lease, subject, *row):
                        known[subject] = secret
            if lease.generation == generation and known is self._by_subject:
                found = {subject: known[subject] for subject in wanted if subject in known}
                if len(known) > CACHE_PATIENTS:
                    self.forget()
                return found
            subjects = wanted

    def _keys_of(
        self, read: Callable[[str, list[list[bytes]]], list[Row]], subjects: Sequence[bytes]
    ) -> dict[bytes, tuple[int | None, bytes | None]]:
        found = read("SELECT subject, vault_key, wrapped FROM patient WHERE subject IN ?", [list(subjects)])
        return {bytes(subject): (version, wrapped and bytes(wrapped)) for subject, version, wrapped in found}

    # -- pseudonyms ----------------------------------------------------------------------------------------------

    def patient_ids(self, lease: Lease, subjects: Iterable[bytes]) -> dict[bytes, str]:
        """Return the source ids of the subjects who are known and not erased."""
        found = {}
        for chunk in chunks(subjects):
            secrets = self.secrets(lease, chunk)
            rows = self._store.read("SELECT subject, token, source_id FROM patient WHERE subject IN ?", [chunk])
            for subject, token, sealed in rows:
                if (secret := secrets.get(bytes(subject))) and sealed is not None:
                    opened = unseal(AESGCM(secret), bytes(sealed), b"source", bytes(subject), token.encode())
                    found[bytes(subject)] = opened.decode()
        return found

    def tokens(self) -> dict[bytes, str]:
        """Return the pseudonym of every patient who is not erased."""
        return {
            bytes(s): str(t) for s, t in self._store.read("SELECT subject, token FROM patient WHERE token IS NOT NULL")
        }

    def subject_of_token(self, token: str) -> bytes | None:
        """Return the subject of a current or former pseudonym; None: nobody has or had it."""
        rows = self._store.read("SELECT subject FROM patient WHERE token = ?", (token,))
        rows = rows or self._store.read("SELECT subject FROM former WHERE digest = ?", (self._former_digest(token),))
        return bytes(rows[0][0]) if rows else None

    def knows(self, numbers: Iterable[str]) -> bool:
        """Return whether any of these belongs to a patient; see Vault.knows."""
        for chunk in chunks(numbers):
            subjects, digests = [self.subject_of(text) for text in chunk], [self._digest(text) for text in chunk]
            if self._store.read("SELECT 1 FROM patient WHERE subject IN ?", [subjects]):
                return True
            if self._store.read("SELECT 1 FROM patient WHERE mrn_digest IN ?", [digests]):
                return True
        return False

    def tokens_of(self, lease: Lease, subject: bytes) -> set[str]:
        """Return all pseudonyms of a patient; see Vault.tokens_of."""
        rows = self._store.read("SELECT token FROM patient WHERE subject = ? AND token IS NOT NULL", (subject,))
        if not (secret := self.secrets(lease, [subject]).get(subject)):
            return set()
        former = self._store.read("SELECT key_version, sealed FROM former WHERE subject = ?", (subject,))
        opened = (
            unseal(AESGCM(secret), bytes(sealed), b"former", subject, version.encode()) for version, sealed in former
        )
        return {*(str(token) for (token,) in rows), *(token.decode() for token in opened)}

    def keep_former(self, lease: Lease, version: str, token_of: Callable[[str], str]) -> int:
        """Keep the pseudonyms of a former key; see Vault.keep_former."""
        kept = 0
        lacking = self._store.read(
            "SELECT subject FROM patient WHERE token NOT LIKE ? AND subject NOT IN "
            "(SELECT subject FROM former WHERE key_version = ?)",
            (f"{version}.%", version),
        )
        for chunk in chunks(bytes(subject) for (subject,) in lacking):
            ids = self.patient_ids(lease, chunk)
            secrets = self.secrets(lease, ids)
            with self._store.transaction() as transaction:
                transaction.lock_shared()  # nothing is kept of patients who are erased meanwhile
                known = dict(_tokens_of(transaction, list(ids)))
                tokens = {subject: token_of(patient) for subject, patient in ids.items() if subject in known}
                rows = [
                    self._former(subject, token, AESGCM(secrets[subject]), version)
                    for subject, token in tokens.items()
                    if subject in secrets and known[subject] != token
                ]
                transaction.insert_new("former", _FORMER, rows)
                kept += len(rows)
        return kept

    def _former(self, subject: bytes, token: str, cipher: AESGCM, version: str) -> Row:
        sealed = seal(cipher, token.encode(), b"former", subject, version.encode())
        return subject, version, self._former_digest(token), sealed

    def _former_digest(self, token: str) -> bytes:
        return hmac.digest(self._secret, b"former\0" + token.encode(), hashlib.sha256)

    def retoken(self, lease: Lease, token_of: Callable[[str], str]) -> int:
        """Give each patient the pseudonym that a new key makes; return how many changed."""
        changed = 0
        for chunk in chunks(sorted(self.tokens())):
            ids = self.patient_ids(lease, chunk)
            secrets = self.secrets(lease, ids)
            with self._store.transaction() as transaction:
                transaction.lock_exclusively()
                for subject, patient in ids.items():
                    if subject in secrets:
                        cipher, token = AESGCM(secrets[subject]), token_of(patient)
                        for old in _retoken(transaction, subject, token, cipher):
                            version = old.partition(".")[0]
                            transaction.insert_new("former", _FORMER, [self._former(subject, old, cipher, version)])
                            changed += 1
        return changed

    # -- identities ----------------------------------------------------------------------------------------------

    def put(self, lease: Lease, identities: Iterable[tuple[str, int, Identity]]) -> None:
        """Store identities; see Vault.put."""
        for chunk in chunks(identities):
            keys = self.enrol(lease, [(identity.source_id, token) for token, _, identity in chunk])
            with self._store.transaction() as transaction:
                transaction.lock_shared()
                subjects = [key.subject for key in keys if key]
                tokens = dict(_tokens_of(transaction, subjects))
                transaction.run_many(
                    "UPDATE patient SET version = ?, mrn_digest = ?, identity = ? "
                    "WHERE subject = ? AND token = ? AND (version IS NULL OR version <= ?)",
                    [
                        (
                            version,
                            *self._sealed(key, tokens[key.subject], identity),
                            key.subject,
                            tokens[key.subject],
                            version,
                        )
                        for key, (_, version, identity) in zip(keys, chunk, strict=True)
                        if key and key.subject in tokens
                    ],
                )

    def _sealed(self, key: PatientKey, token: str, identity: Identity) -> tuple[bytes | None, bytes]:
        sealed = seal(AESGCM(key.secret), msgspec.json.encode(identity), b"identity", key.subject, token.encode())
        return self._digest(identity.mrn) if identity.mrn else None, sealed

    def look_up(self, lease: Lease, token: str) -> Identity | None:
        """Return the identity behind a pseudonym; None: none is known."""
        rows = self._store.read(
            "SELECT subject, identity FROM patient WHERE token = ? AND identity IS NOT NULL", (token,)
        )
        for subject, sealed in rows:
            secret = self.secrets(lease, [bytes(subject)]).get(bytes(subject))
            if secret is not None:
                opened = unseal(AESGCM(secret), bytes(sealed), b"identity", bytes(subject), token.encode())
                return msgspec.json.decode(opened, type=Identity)
        return None

    def version(self, token: str) -> int | None:
        """Return the version of an identity; see Vault.version."""
        rows = self._store.read("SELECT version FROM patient WHERE token = ?", (token,))
        return None if not rows or rows[0][0] is None else int(rows[0][0])

    def identities(self, lease: Lease) -> Iterator[Identity]:
        """Yield every identity; see Vault.identities."""
        for chunk in chunks(sorted(self.tokens())):
            secrets = self.secrets(lease, chunk)
            sql = "SELECT subject, token, identity FROM patient WHERE identity IS NOT NULL AND subject IN ?"
            for subject, token, sealed in self._store.read(sql, [chunk]):
                if (secret := secrets.get(bytes(subject))) is not None:
                    opened = unseal(AESGCM(secret), bytes(sealed), b"identity", bytes(subject), token.encode())
                    yield msgspec.json.decode(opened, type=Identity)

    def token_of_mrn(self, mrn: str) -> str | None:
        """Return the pseudonym of a medical record number; None: nobody has it."""
        rows = self._store.read("SELECT token FROM patient WHERE mrn_digest = ?", (self._digest(mrn),))
        return str(rows[0][0]) if rows else None

    def _digest(self, mrn: str) -> bytes:
        return hmac.digest(self._secret, b"mrn\0" + mrn.encode(), hashlib.sha256)


def _slices(random: bytes) -> Iterator[bytes]:
    return (random[at : at + KEY_BYTES] for at in range(0, len(random), KEY_BYTES))


def _new_row(lease: Lease, subject: bytes, patient: str, token: str, secret: bytes) -> Row:
    wrapped = lease.wrap(secret, b"patient", subject)
    source = seal(AESGCM(secret), patient.encode(), b"source", subject, token.encode())
    return subject, token, lease.current, wrapped, source, clock.now_us()


def _opened(lease: Lease, subject: bytes, version: int | None, wrapped: bytes | None) -> bytes | None:
    """Return a patient's key; None: it was destroyed."""
    if version is None or wrapped is None:
        return None
    return lease.unwrap(version, wrapped, b"patient", subject)


def _tokens_of(transaction: Transaction, subjects: Sequence[bytes]) -> Iterator[tuple[bytes, str]]:
    sql = "SELECT subject, token FROM patient WHERE token IS NOT NULL AND subject IN ?"
    return ((bytes(subject), str(token)) for subject, token in transaction.run(sql, [list(subjects)]))


def _retoken(transaction: Transaction, subject: bytes, token: str, cipher: AESGCM) -> list[str]:
    """Give a patient another pseudonym; return the former one, or nothing if the pseudonym stays the same."""
    rows = transaction.run(
        "SELECT token, source_id, identity FROM patient WHERE subject = ? AND token IS NOT NULL AND token <> ?",
        (subject, token),
    )
    for old, *sealed in rows:
        new = [
            None
            if value is None
            else seal(cipher, unseal(cipher, bytes(value), name, subject, old.encode()), name, subject, token.encode())
            for name, value in zip((b"source", b"identity"), sealed, strict=True)
        ]
        transaction.run(
            "UPDATE patient SET token = ?, source_id = ?, identity = ? WHERE subject = ?", (token, *new, subject)
        )
    return [str(old) for old, *_ in rows]
