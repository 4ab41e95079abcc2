"""Erases patients in the vault: destroys the key first, and again in every vault that is restored from a back-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from governance.vault.erasure_log import Entry, ErasureLog, missing_entries
from governance.vault.holds import Holds
from governance.vault.lease import Lease
from governance.vault.records import PendingErasure, Tombstone, moment
from governance.vault.store import Row, Store, Transaction
from vitalake import clock
from vitalake.errors import PrivacyError
from vitalake.failpoints import failpoint

_PIECE_BYTES = 64
"""SQLite may split a long value over pages of the file, so the file is searched for pieces of this length."""

_DESTROYED_COLUMNS = ("token", "wrapped", "source_id", "mrn_digest", "identity")


class Erasures:
    """Destroys patients' keys, keeps a tombstone of each, and keeps what is needed to finish their erasure."""

    def __init__(self, store: Store, lease: Lease, log: ErasureLog, holds: Holds) -> None:
        self._store, self._lease, self._log, self._holds = store, lease, log, holds

    def reapply(self) -> None:
        """Destroy again the keys that a restored vault has and that the log records as destroyed.

        Raises:
            PrivacyError: the log belongs to another vault, or lacks entries.
            ServiceUnavailable: vault or log cannot be read.
        """
        # Read the vault before the log: an erasure is written into the log first, so the log cannot lag behind.
        known, head, unfinished = self._store.read("SELECT erasures, log_head, scrub FROM vault")[0]
        entries = self._log.entries()
        self._compare(entries, known, head, self._store.read)
        if len(entries) == known and not unfinished:
            return
        with self._log.locked():
            with self._store.transaction() as transaction:
                transaction.lock_exclusively()
                unfinished = _is_unfinished(transaction)
                needles = self._catch_up(transaction, self._log.entries())
            # A lane's database user may not be allowed to rewrite tables. It continues, and the flag stays set for a
            # user who is allowed to.
            with suppress(PrivacyError):
                self._scrub(needles, unfinished=unfinished)

    def erase(self, subject: bytes, certificate: str) -> Tombstone:
        """Destroy a patient's key and identity; see Vault.erase."""
        with self._log.locked():
            with self._store.transaction() as transaction:
                transaction.lock_exclusively()
                entries, unfinished = self._log.entries(), _is_unfinished(transaction)
                needles = self._catch_up(transaction, entries)
                if (stone := _tombstone(transaction.run(_STONE, (subject,)))) is None:
                    self._holds.refuse(self._lease, transaction, subject)
                    entry = self._log.append(entries, subject, certificate)
                    failpoint("erasure-logged")
                    needles += _apply(transaction, entry)
                    stone = Tombstone(subject, moment(entry.at_us), entry.certificate)
            failpoint("erasure-destroyed")
            self._lease.drop()
            self._scrub(needles, unfinished=unfinished)
        return stone

    def begin(
        self, subject: bytes, certificate: str, identifiers: Sequence[str], noted: Callable[[], None]
    ) -> Tombstone:
        """Destroy the key, and keep what is needed to finish the erasure; see Vault.begin_erasure."""
        self._lease.hold()
        with self._store.transaction() as transaction:
            self._lease.writing(transaction)
            if not transaction.run(_STONE, (subject,)):
                self._holds.refuse(self._lease, transaction, subject)
            before = transaction.run("SELECT subject FROM pending WHERE certificate = ?", (certificate,))
            if any(bytes(owner) != subject for (owner,) in before):
                raise PrivacyError(
                    "Certificate belongs to another erasure", where="vault", remedy="Use another id for this erasure."
                )
            if before:  # the earlier note is outdated, and must not remain readable in the file
                transaction.run("DELETE FROM pending WHERE certificate = ?", (certificate,))
                transaction.run("UPDATE vault SET scrub = 1")
            sealed = self._lease.wrap(msgspec.json.encode(list(identifiers)), *_context(subject, certificate))
            columns = ("certificate", "subject", "vault_key", "identifiers", "made_us")
            note = (certificate, subject, self._lease.current, sealed, clock.now_us())
            transaction.insert_new("pending", columns, [note])
        noted()
        return self.erase(subject, certificate)

    def pending(self) -> list[PendingErasure]:
        """Return the erasures that are not finished; see Vault.pending_erasures."""
        self._lease.hold()
        rows = self._store.read(
            "SELECT pending.certificate, pending.subject, pending.vault_key, identifiers, erased_us FROM pending "
            "LEFT JOIN patient ON patient.subject = pending.subject ORDER BY pending.made_us, pending.certificate"
        )
        found = []
        for certificate, subject, version, sealed, erased in rows:
            opened = self._lease.unwrap(version, bytes(sealed), *_context(bytes(subject), certificate))
            identifiers = tuple(msgspec.json.decode(opened, type=list[str]))
            found.append(PendingErasure(certificate, bytes(subject), identifiers, erased is not None))
        return found

    def finish(self, certificate: str) -> None:
        """Delete what was kept to finish an erasure; see Vault.finish_erasure."""
        with self._log.locked():
            with self._store.transaction() as transaction:
                unfinished = _is_unfinished(transaction)
                rows = transaction.run("SELECT identifiers FROM pending WHERE certificate = ?", (certificate,))
                transaction.run("DELETE FROM pending WHERE certificate = ?", (certificate,))
                if rows:
                    transaction.run("UPDATE vault SET scrub = 1")
            self._scrub([piece for (sealed,) in rows for piece in _pieces(bytes(sealed))], unfinished=unfinished)

    def tombstone(self, subject: bytes) -> Tombstone | None:
        """Return the tombstone of an erased patient; None: the patient is not erased."""
        return _tombstone(self._store.read(_STONE, (subject,)))

    def tombstones(self) -> list[Tombstone]:
        """Return all tombstones, oldest first; see Vault.tombstones."""
        rows = self._store.read(_STONES)
        return [Tombstone(bytes(subject), moment(at_us), certificate) for subject, at_us, certificate in rows]

    def _catch_up(self, transaction: Transaction, entries: list[Entry]) -> list[bytes]:
        known, head = transaction.run("SELECT erasures, log_head FROM vault")[0]
        self._compare(entries, known, head, transaction.run)
        return [needle for entry in entries[known:] for needle in _apply(transaction, entry)]

    def _compare(self, entries: list[Entry], known: int, head: str, read: Callable[[str], list[Row]]) -> None:
        if len(entries) < known or (known and entries[known - 1].hash != head):
            stones = read(_STONES)
            newest = f"{moment(stones[-1][1]):%Y-%m-%d %H:%M} UTC, with {stones[-1][2]}" if stones else ""
            raise missing_entries(self._log.name, entries=len(entries), known=known, newest=newest)

    def _scrub(self, needles: Sequence[bytes], *, unfinished: bool) -> None:
        """Remove deleted bytes from the files; the caller holds the log's lock, so no other process uses the flag."""
        if needles or unfinished:
            self._store.scrub([] if unfinished else needles)
            with self._store.transaction() as transaction:
                transaction.run("UPDATE vault SET scrub = 0")


_STONE = "SELECT subject, erased_us, certificate FROM patient WHERE subject = ? AND erased_us IS NOT NULL"
_STONES = "SELECT subject, erased_us, certificate FROM patient WHERE erased_us IS NOT NULL ORDER BY erased_us, subject"


def _is_unfinished(transaction: Transaction) -> bool:
    """Return whether a process was killed before it had cleaned the files."""
    return bool(transaction.run("SELECT scrub FROM vault")[0][0])


def _tombstone(rows: Sequence[tuple[bytes, int, str]]) -> Tombstone | None:
    return Tombstone(bytes(rows[0][0]), moment(rows[0][1]), rows[0][2]) if rows else None


def _apply(transaction: Transaction, entry: Entry) -> list[bytes]:
    """Replace a patient by a tombstone; return the bytes that must not remain in the file."""
    subject = bytes.fromhex(entry.subject)
    destroyed = transaction.run(f"SELECT {', '.join(_DESTROYED_COLUMNS)} FROM patient WHERE subject = ?", (subject,))  # noqa: S608
    destroyed += transaction.run("SELECT digest, sealed FROM former WHERE subject = ?", (subject,))
    transaction.run("DELETE FROM former WHERE subject = ?", (subject,))
    destroyed += transaction.run("SELECT reason FROM hold WHERE subject = ?", (subject,))
    transaction.run("DELETE FROM hold WHERE subject = ?", (subject,))
    transaction.run("DELETE FROM patient WHERE subject = ? AND erased_us IS NULL", (subject,))
    columns = ("subject", "erased_us", "certificate")
    transaction.insert_new("patient", columns, [(subject, entry.at_us, entry.certificate)])
    transaction.run("UPDATE vault SET erasures = ?, log_head = ?, scrub = 1", (entry.number, entry.hash))
    values = [value.encode() if isinstance(value, str) else bytes(value) for row in destroyed for value in row if value]
    return [piece for value in values for piece in _pieces(value)]


def _pieces(value: bytes) -> list[bytes]:
    return [value[at : at + _PIECE_BYTES] for at in range(0, len(value), _PIECE_BYTES)]


def _context(subject: bytes, certificate: str) -> tuple[bytes, ...]:
    return b"pending", subject, certificate.encode()
