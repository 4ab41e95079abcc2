"""Migrates a vault of the first form, which held only identities sealed with one key, when it is opened."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from governance.vault.records import Identity
from governance.vault.store import Store
from governance.vault.vault import Vault
from vitalake.keys import Key
from vitalake.sealing import Sealer

_OLD = "SELECT token, version, sealed FROM identity"


def migrate_old_form(vault: Vault, store: Store, key: Key) -> None:
    """Move the identities of the first form into the vault, each under its patient's key; after a kill it starts over.

    Args:
        vault: the opened vault.
        store: its SQLite file.
        key: the key that sealed them.

    Raises:
        PrivacyError: they were sealed with another key; nothing was changed.
        KeyRevoked: see Vault.
    """
    if not store.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'identity'"):
        return
    vault.put(list(_identities(store, Sealer(key))))
    with store.transaction() as transaction:
        transaction.run("DROP TABLE IF EXISTS identity")
        transaction.run("UPDATE vault SET scrub = 1")
    store.scrub([])
    with store.transaction() as transaction:
        transaction.run("UPDATE vault SET scrub = 0")


def _identities(store: Store, sealer: Sealer) -> Iterator[tuple[str, int, Identity]]:
    for token, version, sealed in store.read(_OLD):
        yield token, version, msgspec.json.decode(sealer.open(sealed, context=token.encode()), type=Identity)
