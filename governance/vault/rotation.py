"""Rotation: makes a new wrapping key and a new vault key, wraps every key again with them, destroys the old ones."""

from __future__ import annotations

from collections.abc import Callable

from governance.keyservice import KeyService
from governance.vault.erasure_log import ErasureLog
from governance.vault.lease import Lease
from governance.vault.store import Store, Transaction
from vitalake.failpoints import failpoint

BATCH = 2000
"""Rows in one transaction, which holds the vault's lock for some ten milliseconds."""


class Rotation:
    """Rotates the keys; an interrupted rotation continues from what the tables show as still to be done."""

    def __init__(self, store: Store, lease: Lease, service: KeyService, log: ErasureLog) -> None:
        self._store, self._lease, self._service, self._log = store, lease, service, log

    def run(self, progress: Callable[[int], None]) -> int:
        """Rotate; see Vault.rotate."""
        self._lease.hold()
        self._begin()
        self._lease.renew()  # now with the new version
        wrapped = 0
        while batch := self._rewrap_patients():
            wrapped += batch
            progress(wrapped)
            failpoint("keys-rewrapped")
        self._rewrap_pending()
        self._rewrap_store_keys()
        self._end()
        return wrapped

    def _begin(self) -> None:
        with self._store.transaction() as transaction:
            transaction.lock_exclusively()
            if not transaction.run("SELECT rotating FROM vault")[0][0]:
                self._service.rotate()
                self._lease.add_version(transaction)
                transaction.run("UPDATE vault SET rotating = 1")

    def _rewrap_patients(self) -> int:
        with self._store.transaction() as transaction:
            transaction.lock_exclusively()
            rows = transaction.run(
                "SELECT subject, vault_key, wrapped FROM patient WHERE vault_key < ? LIMIT ?",
                (self._lease.current, BATCH),
            )
            transaction.run_many(
                "UPDATE patient SET vault_key = ?, wrapped = ? WHERE subject = ?",
                [
                    (self._lease.current, self._rewrapped(version, wrapped, b"patient", bytes(subject)), subject)
                    for subject, version, wrapped in rows
                ],
            )
        return len(rows)

    def _rewrap_pending(self) -> None:
        with self._store.transaction() as transaction:
            transaction.lock_exclusively()
            rows = transaction.run(
                "SELECT certificate, subject, vault_key, identifiers FROM pending WHERE vault_key < ?",
                (self._lease.current,),
            )
            transaction.run_many(
                "UPDATE pending SET vault_key = ?, identifiers = ? WHERE certificate = ?",
                [
                    (
                        self._lease.current,
                        self._rewrapped(version, sealed, b"pending", bytes(subject), certificate.encode()),
                        certificate,
                    )
                    for certificate, subject, version, sealed in rows
                ],
            )

    def _rewrap_store_keys(self) -> None:
        with self._store.transaction() as transaction:
            transaction.lock_exclusively()
            rows = transaction.run(
                "SELECT name, vault_key, wrapped FROM store_key WHERE vault_key < ?", (self._lease.current,)
            )
            transaction.run_many(
                "UPDATE store_key SET vault_key = ?, wrapped = ? WHERE name = ?",
                [
                    (self._lease.current, self._rewrapped(version, wrapped, b"store", name.encode()), name)
                    for name, version, wrapped in rows
                ],
            )

    def _rewrapped(self, version: int, wrapped: bytes, *context: bytes) -> bytes:
        return self._lease.wrap(self._lease.unwrap(version, bytes(wrapped), *context), *context)

    def _end(self) -> None:
        """Destroy the old versions, first the vault's, then the key service's; they wrap nothing any more."""
        with self._log.locked():  # as in an erasure: only one process may clean the files
            with self._store.transaction() as transaction:
                transaction.lock_exclusively()
                current = self._lease.current
                assert not _wrapped_before(transaction, current)
                old = transaction.run("SELECT wrapped FROM vault_key WHERE version < ?", (current,))
                transaction.run("DELETE FROM vault_key WHERE version < ?", (current,))
                unfinished = transaction.run("SELECT scrub FROM vault")[0][0]
                transaction.run("UPDATE vault SET scrub = 1")
            failpoint("keys-destroying")
            self._store.scrub([] if unfinished else [bytes(wrapped) for (wrapped,) in old])
            self._destroy_unused()
            with self._store.transaction() as transaction:
                transaction.run("UPDATE vault SET rotating = 0, scrub = 0")
        self._lease.drop()

    def _destroy_unused(self) -> None:
        used = {key_id for (key_id,) in self._store.read("SELECT key_id FROM vault_key")}
        for version in self._service.status():
            if not version.current and version.key_id not in used and version.state != "destroyed":
                self._service.destroy(version.key_id)


def _wrapped_before(transaction: Transaction, version: int) -> int:
    """Return how many keys and notes an older version still wraps; no more can come, for writers use the newest."""
    rows = transaction.run(
        "SELECT (SELECT count(*) FROM patient WHERE vault_key < ?) "
        "+ (SELECT count(*) FROM pending WHERE vault_key < ?) "
        "+ (SELECT count(*) FROM store_key WHERE vault_key < ?)",
        (version, version, version),
    )
    return int(rows[0][0])
