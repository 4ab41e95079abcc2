"""Opens the vault for a purpose, and records the first use of each key of the key service before the key is used."""

from __future__ import annotations

import os

from governance import belonging
from governance.access import local_principal
from governance.audit import AuditEvent, open_audit
from governance.vault import Vault
from vitalake.keys import KeyRing
from vitalake.settings import Settings

WRITER = "keys"

_recorded: set[tuple[int, str, str, str]] = set()
"""Process, audit folder, purpose and key of the uses on record: one record each, not one for each row or poll."""


def open_vault(settings: Settings, keys: KeyRing, *, purpose: str, allow_restored_lake: bool = False) -> Vault:
    """Return the home's vault, opened; see governance.belonging.open_vault.

    Args:
        settings: the home's settings.
        keys: from the home's key file.
        purpose: what the patients' keys are used for, a code such as ``stream``; the audit records it.
        allow_restored_lake: as in governance.belonging.open_vault.

    Raises:
        VitaLakeError: as in governance.belonging.open_vault. If the audit cannot be written, the first use of a key
            raises the error, not this function.
    """

    def used(key: str) -> None:
        use = (os.getpid(), str(settings.path(settings.audit)), purpose, key)
        if use in _recorded:
            return
        who = local_principal()
        event = AuditEvent("keys.use", who.subject, who.role, (), {"purpose": purpose, "key": key})
        open_audit(settings, keys, writer=WRITER).record(event)
        _recorded.add(use)

    return belonging.open_vault(settings, keys, allow_restored_lake=allow_restored_lake, used=used)
