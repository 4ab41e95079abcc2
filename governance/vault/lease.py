"""The vault's keys in memory: for one second after the key service last let us have them, and no longer."""

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

KeyRow = tuple[str, int, int, str, bytes]


def boot_seconds() -> float:
    """Return seconds of a clock that nobody sets, and that runs on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Holds the vault's keys; whoever uses one calls ``hold`` first.

    Attributes:
        current: the version that wraps what comes.
        generation: how many patients were erased.
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
            forget: called when what was opened with these keys must not be used any more.
            seconds: a clock that only runs forward.
            used: is told each key of the service before what it wraps is used for the first time.
        """
        self._used, self._told = used, set[str]()
        self._store, self._service, self._forget, self._seconds = store, service, forget, seconds
        self._ciphers: dict[int, AESGCM] = {}
        self._until = float("-inf")
        self._connections = 0
        self.current, self.generation = 0, -1

    def hold(self) -> None:
        """Make sure that the keys may still be used.

        Raises:
            KeyRevoked: they may not.
            ServiceUnavailable: nobody can say.
        """
        if self._seconds() >= self._until:
            self.renew()

    def renew(self) -> None:
        """Ask the service for the keys anew; without an answer nothing stays in memory.

        Raises:
            KeyRevoked, ServiceUnavailable: see ``hold``.
        """
        asked = self._seconds()  # before the question: the answer may have been on its way for long
        try:
            rows = self._read()
            ciphers = unwrapped(rows, self._service)
            for key in sorted({key for _, _, _, key, _ in rows} - self._told):
                self._used(key)
                self._told.add(key)
        except BaseException:
            self.drop()
            raise
        if rows[0][1] != self.generation or self._store.connections != self._connections:
            self._forget()
        self.generation, self._connections = rows[0][1], self._store.connections
        self._ciphers, self.current, self._until = ciphers, max(ciphers), asked + LEASE_SECONDS

    def drop(self) -> None:
        """Forget all keys, and what was opened with them."""
        self._ciphers, self._until = {}, float("-inf")
        self._forget()

    def wrap(self, secret: bytes, *context: bytes) -> bytes:
        """Return a secret wrapped by the current version; only inside a transaction that shares (see ``writing``)."""
        return seal(self._ciphers[self.current], secret, *context)

    def unwrap(self, version: int, wrapped: bytes, *context: bytes) -> bytes:
        """Return a secret that some version wrapped.

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
        """Make sure, to the transaction's end, that the current version is the one in memory."""
        transaction.share()
        if transaction.run("SELECT max(version) FROM vault_key")[0][0] != self.current:
            self.renew()

    def add_version(self, transaction: Transaction) -> int:
        """Make a new version, which wraps from now on; the transaction is alone."""
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
                transaction.alone()
                if not transaction.run("SELECT version FROM vault_key"):
                    self.add_version(transaction)
            rows = read_keys(self._store)
        return rows


def read_keys(store: Store) -> list[KeyRow]:
    """Return the vault's id, how many were erased, and each version of its key: number, by what it is wrapped, how."""
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
