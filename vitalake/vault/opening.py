"""From the settings to an open vault."""

from __future__ import annotations

from vitalake.keys import KeyRing
from vitalake.keyservice import open_key_service
from vitalake.settings import Settings
from vitalake.vault.on_sqlite import SqliteStore
from vitalake.vault.store import Store
from vitalake.vault.vault import Vault


def open_vault(settings: Settings, keys: KeyRing) -> Vault:
    """Return the home's vault, opened.

    Raises:
        SettingsError: its address does not fit.
        ServiceUnavailable: it cannot be opened.
    """
    return Vault(open_store(settings), keys.current("vault"), open_key_service(settings))


def open_store(settings: Settings) -> Store:
    """Return the vault's tables.

    Raises:
        SettingsError: its address does not fit.
        ServiceUnavailable: it cannot be opened.
    """
    return SqliteStore(settings.path(settings.vault))
