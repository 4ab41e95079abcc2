"""Opens the vault for a purpose: the first use of each of the key service's keys is on record before it is used."""

from __future__ import annotations

import os

from governance import belonging
from governance.access import local_principal
from governance.audit import AuditEvent, open_audit
from governance.vault import Vault
from vitalake.keys import KeyRing
from vitalake.settings import Settings

WRITER = "keys"

_told: set[tuple[int, str, str, str]] = set()
"""Process, audit, purpose and key of what is on record: one record each, not one a row, a poll or an opening."""


def open_vault(settings: Settings, keys: KeyRing, *, purpose: str, allow_restored_lake: bool = False) -> Vault:
    """Return the home's vault, opened; see governance.belonging.open_vault.

    Args:
        settings: of the home.
        keys: its key file's.
        purpose: what patients' keys are used for, a code such as ``stream``; stands in the audit.
        allow_restored_lake: as there.

    Raises:
        VitaLakeError: as there. What cannot be recorded is refused when a key is needed, not now.
    """

    def used(key: str) -> None:
        place = (os.getpid(), str(settings.path(settings.audit)), purpose, key)
        if place in _told:
            return
        who = local_principal()
        event = AuditEvent("keys.use", who.subject, who.role, (), {"purpose": purpose, "key": key})
        open_audit(settings, keys, writer=WRITER).record(event)
        _told.add(place)

    return belonging.open_vault(settings, keys, allow_restored_lake=allow_restored_lake, used=used)
