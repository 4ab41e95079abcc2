"""The status of a vault: key versions and counts."""

from __future__ import annotations

from datetime import datetime

import msgspec

from governance.vault.records import moment
from governance.vault.store import Store


class VaultKeyStatus(msgspec.Struct, frozen=True):
    """One version of the vault's key.

    Attributes:
        version: 1, 2, 3 …
        key_id: the key of the key service that wraps it.
        made_at: when it was made.
        patients: how many patients' keys it wraps.
    """

    version: int
    key_id: str
    made_at: datetime
    patients: int


class VaultStatus(msgspec.Struct, frozen=True):
    """Key versions and counts of a vault.

    Attributes:
        keys: versions of the vault's key, oldest first; the last one wraps new keys.
        rotating: whether a rotation was begun and not finished.
        patients: how many have a key.
        identities: how many of them have a known name.
        erased: how many were erased.
        held: how many have a legal hold, ended or not.
        pending: how many erasures are not finished.
    """

    keys: list[VaultKeyStatus]
    rotating: bool
    patients: int
    identities: int
    erased: int
    held: int
    pending: int


def read_status(store: Store) -> VaultStatus | None:
    """Return the status; None: the vault was never opened."""
    keys = store.read(
        "SELECT version, key_id, made_us, (SELECT count(*) FROM patient WHERE patient.vault_key = vault_key.version) "
        "FROM vault_key ORDER BY version"
    )
    counts = store.read(
        "SELECT rotating, (SELECT count(*) FROM patient WHERE erased_us IS NULL), "
        "(SELECT count(*) FROM patient WHERE identity IS NOT NULL AND version >= 0), "
        "(SELECT count(*) FROM patient WHERE erased_us IS NOT NULL), "
        "(SELECT count(*) FROM hold), (SELECT count(*) FROM pending) FROM vault"
    )
    if not counts:
        return None
    return VaultStatus(
        [VaultKeyStatus(int(v), str(key_id), moment(made), int(n)) for v, key_id, made, n in keys],
        bool(counts[0][0]),
        *(int(count) for count in counts[0][1:]),
    )
