"""Erasing a patient: the key is destroyed first, and what was destroyed stays so in every vault that is restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from governance.vault.erasure_log import Entry, ErasureLog, lacking
from governance.vault.holds import Holds
from governance.vault.lease import Lease
from governance.vault.records import PendingErasure, Tombstone, moment
from governance.vault.store import Row, Store, Transaction
from vitalake import clock
from vitalake.errors import PrivacyError
from vitalake.failpoints import failpoint

_PIECE_BYTES = 64
"""A long value may be cut over pages of the file, so it is searched for in pieces of this length."""

_GONE = ("token", "wrapped", "source_id", "mrn_digest", "identity")


class Erasures:
    """Destroys keys, remembers whose, and what of their erasure is still to be done."""

    def __init__(self, store: Store, lease: Lease, log: ErasureLog, holds: Holds) -> None:
        self._store, self._lease, self._log, self._holds = store, lease, log, holds

    def reapply(self) -> None:
        """Destroy what the log says was destroyed and this vault still has: it was restored from a back-up.

        Raises:
            PrivacyError: the log is not the one of this vault, or lacks entries.
            ServiceUnavailable: vault or log cannot be read.
        """
        # The vault first: an erasure is in the log before it is in the vault.
        known, head, unfinished = self._store.read("SELECT erasures, log_head, scrub FROM vault")[0]
        entries = self._log.entries()
        self._compare(entries, known, head, self._store.read)
        if len(entries) == known and not unfinished:
            return
        with self._log.locked():
            with self._store.transaction() as transaction:
                transaction.alone()
                unfinished = _is_unfinished(transaction)
                needles = self._catch_up(transaction, self._log.entries())
            # A lane may have no right to write tables anew, and goes on; the flag stays for who may.
            with suppress(PrivacyError):
                self._scrub(needles, unfinished=unfinished)

    def erase(self, subject: bytes, certificate: str) -> Tombstone:
        """Destroy a patient's key and identity; see Vault.erase."""
        with self._log.locked():
            with self._store.transaction() as transaction:
                transaction.alone()
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
        """Destroy the key, and keep what is needed to do the rest; see Vault.begin_erasure."""
        self._lease.hold()
        with self._store.transaction() as transaction:
            self._lease.writing(transaction)
            if not transaction.run(_STONE, (subject,)):
                self._holds.refuse(self._lease, transaction, subject)
            before = transaction.run("SELECT subject FROM pending WHERE certificate = ?", (certificate,))
            if any(bytes(owner) != subject for (owner,) in before):
                raise PrivacyError(
                    "Certificate belongs to another erasure", where="vault", remedy="Take another id for this one."
                )
            if before:  # what was noted first is outdated, and must not stay in the file
                transaction.run("DELETE FROM pending WHERE certificate = ?", (certificate,))
                transaction.run("UPDATE vault SET scrub = 1")
            sealed = self._lease.wrap(msgspec.json.encode(list(identifiers)), *_place(subject, certificate))
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
            opened = self._lease.unwrap(version, bytes(sealed), *_place(bytes(subject), certificate))
            identifiers = tuple(msgspec.json.decode(opened, type=list[str]))
            found.append(PendingErasure(certificate, bytes(subject), identifiers, erased is not None))
        return found

    def finish(self, certificate: str) -> None:
        """Forget what was kept of an erasure; see Vault.finish_erasure."""
        with self._log.locked():
            with self._store.transaction() as transaction:
                unfinished = _is_unfinished(transaction)
                rows = transaction.run("SELECT identifiers FROM pending WHERE certificate = ?", (certificate,))
                transaction.run("DELETE FROM pending WHERE certificate = ?", (certificate,))
                if rows:
                    transaction.run("UPDATE vault SET scrub = 1")
            self._scrub([piece for (sealed,) in rows for piece in _pieces(bytes(sealed))], unfinished=unfinished)

    def tombstone(self, subject: bytes) -> Tombstone | None:
        """Return when and under which certificate a patient was erased; None: not."""
        return _tombstone(self._store.read(_STONE, (subject,)))

    def tombstones(self) -> list[Tombstone]:
        """Return all of them, oldest first; see Vault.tombstones."""
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
            raise lacking(self._log.name, entries=len(entries), known=known, newest=newest)

    def _scrub(self, needles: Sequence[bytes], *, unfinished: bool) -> None:
        """Clean the files; the caller holds the log's lock, so that the flag is of nobody else who is at work."""
        if needles or unfinished:
            self._store.scrub([] if unfinished else needles)
            with self._store.transaction() as transaction:
                transaction.run("UPDATE vault SET scrub = 0")


_STONE = "SELECT subject, erased_us, certificate FROM patient WHERE subject = ? AND erased_us IS NOT NULL"
_STONES = "SELECT subject, erased_us, certificate FROM patient WHERE erased_us IS NOT NULL ORDER BY erased_us, subject"


def _is_unfinished(transaction: Transaction) -> bool:
    """Return whether somebody was killed before the files were clean."""
    return bool(transaction.run("SELECT scrub FROM vault")[0][0])


def _tombstone(rows: Sequence[tuple[bytes, int, str]]) -> Tombstone | None:
    return Tombstone(bytes(rows[0][0]), moment(rows[0][1]), rows[0][2]) if rows else None


def _apply(transaction: Transaction, entry: Entry) -> list[bytes]:
    """Put a tombstone in a patient's place; return what must not be found in the file any more."""
    subject = bytes.fromhex(entry.subject)
    found = transaction.run(f"SELECT {', '.join(_GONE)} FROM patient WHERE subject = ?", (subject,))  # noqa: S608
    found += transaction.run("SELECT digest, sealed FROM former WHERE subject = ?", (subject,))
    transaction.run("DELETE FROM former WHERE subject = ?", (subject,))
    found += transaction.run("SELECT reason FROM hold WHERE subject = ?", (subject,))
    transaction.run("DELETE FROM hold WHERE subject = ?", (subject,))
    transaction.run("DELETE FROM patient WHERE subject = ? AND erased_us IS NULL", (subject,))
    columns = ("subject", "erased_us", "certificate")
    transaction.insert_new("patient", columns, [(subject, entry.at_us, entry.certificate)])
    transaction.run("UPDATE vault SET erasures = ?, log_head = ?, scrub = 1", (entry.number, entry.hash))
    values = [value.encode() if isinstance(value, str) else bytes(value) for row in found for value in row if value]
    return [piece for value in values for piece in _pieces(value)]


def _pieces(value: bytes) -> list[bytes]:
    return [value[at : at + _PIECE_BYTES] for at in range(0, len(value), _PIECE_BYTES)]


def _place(subject: bytes, certificate: str) -> tuple[bytes, ...]:
    return b"pending", subject, certificate.encode()
