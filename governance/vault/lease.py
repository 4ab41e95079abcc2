"""A lease on the vault's keys: they stay in memory for one second after the key service last unwrapped them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.keyservice import KeyService, Wrapped
from governance.vault.seals import KEY_BYTES, seal, unseal
from governance.vault.store import Store, Transaction
from vitalake import clock
from vitalake.errors import PrivacyError

LEASE_SECONDS = 1.0
"""The longest time for which a revoked key can still be used (docs/decisions/0030-two-envelopes-and-a-lease.md)."""

KeyRow = tuple[str, int, int, str, bytes]


def boot_seconds() -> float:
    """Return the seconds since the machine started; this clock is never set, and runs on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Holds the vault's keys in memory; call ``hold`` before every use of one.

    Attributes:
        current: the version that wraps new keys.
        generation: how many patients were erased, as of the last renewal.
    """

    def __init__(
        self,
        store: Store,
        service: KeyService,
        *,
        forget: Callable[[], None],
        seconds: Callable[[], float],
        used: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is asked of the service yet.

        Args:
            store: the vault's tables.
            service: wraps the vault's keys.
            forget: called when keys and values opened with these keys must be dropped from memory.
            seconds: a clock that only runs forward.
            used: called with the id of each key of the service, before anything it wraps is used for the first time.
        """
        self._used, self._reported = used, set[str]()
        self._store, self._service, self._forget, self._seconds = store, service, forget, seconds
        self._ciphers: dict[int, AESGCM] = {}
        self._until = float("-inf")
        self._connections = 0
        self.current, self.generation = 0, -1

    def hold(self) -> None:
        """Make sure that the keys may still be used.

        Raises:
            KeyRevoked: the key service has taken them away.
            ServiceUnavailable: the key service does not answer.
        """
        if self._seconds() >= self._until:
            self.renew()

    def renew(self) -> None:
        """Ask the service for the keys again; if it does not answer, drop all keys from memory.

        Raises:
            KeyRevoked, ServiceUnavailable: see ``hold``.
        """
        asked = self._seconds()  # the lease counts from before the question, for the answer may take long
        try:
            rows = self._read()
            ciphers = unwrapped(rows, self._service)
            for key in sorted({key for _, _, _, key, _ in rows} - self._reported):
                self._used(key)
                self._reported.add(key)
        except BaseException:
            self.drop()
            raise
        if rows[0][1] != self.generation or self._store.connections != self._connections:
            self._forget()
        self.generation, self._connections = rows[0][1], self._store.connections
        self._ciphers, self.current, self._until = ciphers, max(ciphers), asked + LEASE_SECONDS

    def drop(self) -> None:
        """Drop all keys, and what was opened with them, from memory."""
        self._ciphers, self._until = {}, float("-inf")
        self._forget()

    def wrap(self, secret: bytes, *context: bytes) -> bytes:
        """Return a secret wrapped by the current version; call it only in a transaction after ``writing``."""
        return seal(self._ciphers[self.current], secret, *context)

    def unwrap(self, version: int, wrapped: bytes, *context: bytes) -> bytes:
        """Return a secret that any version has wrapped.

        Raises:
            PrivacyError: it was changed, moved, or its version is gone.
        """
        if version not in self._ciphers:  # a rotation has begun since
            self.renew()
        if version not in self._ciphers:
            raise PrivacyError(
                "Vault's key is gone",
                where=f"vault key v{version}",
                remedy="Restore the vault from its back-up.",
            )
        return unseal(self._ciphers[version], wrapped, *context)

    def writing(self, transaction: Transaction) -> None:
        """Make sure, until the transaction ends, that the version in memory is the current one."""
        transaction.lock_shared()
        if transaction.run("SELECT max(version) FROM vault_key")[0][0] != self.current:
            self.renew()

    def add_version(self, transaction: Transaction) -> int:
        """Make a new version, which wraps from now on; the transaction must hold the exclusive lock."""
        vault = transaction.run("SELECT id FROM vault")[0][0]
        version = (transaction.run("SELECT max(version) FROM vault_key")[0][0] or 0) + 1
        wrapped = self._service.wrap(secrets.token_bytes(KEY_BYTES), context=_context(vault, version))
        transaction.run(
            "INSERT INTO vault_key (version, key_id, wrapped, made_us) VALUES (?, ?, ?, ?)",
            (version, wrapped.key_id, wrapped.sealed, clock.now_us()),
        )
        return version

    def _read(self) -> list[KeyRow]:
        rows = read_keys(self._store)
        if not rows:
            with self._store.transaction() as transaction:
                transaction.lock_exclusively()
                if not transaction.run("SELECT version FROM vault_key"):
                    self.add_version(transaction)
            rows = read_keys(self._store)
        return rows


def read_keys(store: Store) -> list[KeyRow]:
    """Return for each version of the vault's key: vault id, number of erasures, version, wrapping key, wrapped key."""
    rows = store.read("SELECT id, erasures, version, key_id, wrapped FROM vault, vault_key ORDER BY version")
    return [
        (str(vault), int(erased), int(version), str(key), bytes(sealed)) for vault, erased, version, key, sealed in rows
    ]


def unwrapped(rows: Sequence[KeyRow], service: KeyService) -> dict[int, AESGCM]:
    """Return the vault's keys by version.

    Raises:
        KeyRevoked, ServiceUnavailable: see KeyService.
    """
    return {
        version: AESGCM(service.unwrap(Wrapped(key_id, wrapped), context=_context(vault, version)))
        for vault, _, version, key_id, wrapped in rows
    }


def _context(vault: str, version: int) -> bytes:
    return f"vault {vault} v{version}".encode()
