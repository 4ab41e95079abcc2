"""Keys of the stores beside the lake, such as the online store: wrapped by the vault's key, used under its lease."""

from __future__ import annotations

import secrets

from governance.vault.lease import Lease
from governance.vault.seals import KEY_BYTES
from governance.vault.store import Store
from vitalake import clock

_COLUMNS = ("name", "vault_key", "wrapped", "made_us")
_ONE = "SELECT vault_key, wrapped FROM store_key WHERE name = ?"


class StoreKeys:
    """The table of store keys, and the opened keys in memory; of two writers, the first one's key stays."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened: dict[str, bytes] = {}

    def forget(self) -> None:
        """Drop all keys from memory."""
        self._opened = {}

    def secret(self, lease: Lease, name: str) -> bytes:
        """Return a store's key, made at first use; see Vault.store_secret."""
        lease.hold()
        if name not in self._opened:
            rows = self._store.read(_ONE, (name,))
            if not rows:
                with self._store.transaction() as transaction:
                    lease.writing(transaction)
                    wrapped = lease.wrap(secrets.token_bytes(KEY_BYTES), *_context(name))
                    transaction.insert_new("store_key", _COLUMNS, [(name, lease.current, wrapped, clock.now_us())])
                    rows = transaction.run(_ONE, (name,))
            version, sealed = rows[0]
            self._opened[name] = lease.unwrap(int(version), bytes(sealed), *_context(name))
        return self._opened[name]


def _context(name: str) -> tuple[bytes, bytes]:
    return b"store", name.encode()
