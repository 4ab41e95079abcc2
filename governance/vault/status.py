"""What there is in a vault, in numbers."""

from __future__ import annotations

from datetime import datetime

import msgspec

from governance.vault.records import moment
from governance.vault.store import Store


class VaultKeyStatus(msgspec.Struct, frozen=True):
    """One version of the vault's key.

    Attributes:
        version: 1, 2, 3 …
        key_id: of the key service, which wraps it.
        made_at: when.
        patients: whose keys it wraps.
    """

    version: int
    key_id: str
    made_at: datetime
    patients: int


class VaultStatus(msgspec.Struct, frozen=True):
    """Versions and counts.

    Attributes:
        keys: versions of the vault's key, oldest first; the last wraps what comes.
        rotating: whether a rotation was begun and not finished.
        patients: who have a key.
        identities: of them, whose names are known.
        erased: tombstones.
        held: patients with a legal hold, ended or not.
        pending: erasures that are not finished.
    """

    keys: list[VaultKeyStatus]
    rotating: bool
    patients: int
    identities: int
    erased: int
    held: int
    pending: int


def read_status(store: Store) -> VaultStatus | None:
    """Return what there is; None: nobody has opened the vault yet."""
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
