"""Opens the vault that the settings name, and looks into it without opening it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from governance.keyservice import open_key_service
from governance.vault.erasure_log import ErasureLog
from governance.vault.lease import read_keys, unwrapped
from governance.vault.old_form import migrate_old_form
from governance.vault.on_sqlite import SqliteStore
from governance.vault.status import VaultStatus, read_status
from governance.vault.store import Store
from governance.vault.vault import Vault
from vitalake.errors import SettingsError
from vitalake.keys import KeyRing
from vitalake.settings import Settings, has_password, resolve_references


def open_vault(settings: Settings, keys: KeyRing, *, used: Callable[[str], None] = lambda _: None) -> Vault:
    """Open and return the home's vault.

    Args:
        settings: of the home.
        keys: its key file's.
        used: see Vault.

    Raises:
        SettingsError: the vault's address is not valid.
        PrivacyError: the erasure log belongs to another vault, or the vault was sealed with another key.
        ServiceUnavailable: it cannot be opened.
    """
    key, store = keys.current("vault"), open_store(settings)
    log = ErasureLog(settings.path(settings.erasures), key.secret)
    try:
        vault = Vault(store, key, open_key_service(settings), log, used=used)
        if isinstance(store, SqliteStore):
            migrate_old_form(vault, store, key)
    except BaseException:
        store.close()
        raise
    return vault


def open_store(settings: Settings) -> Store:
    """Open and return the vault's database.

    Raises:
        SettingsError: the address contains a password or is not valid, or the extra 'postgres' is not installed.
        ServiceUnavailable: it cannot be opened.
    """
    address = _address(settings)
    if not _is_postgres(settings):
        return SqliteStore(settings.path(address))
    try:
        from governance.vault.on_postgres import PostgresStore
    except ImportError:
        raise SettingsError(
            "Vault on PostgreSQL is not installed",
            where="package psycopg",
            remedy="In the checkout run: pip install '.[postgres]'.",
        ) from None
    return PostgresStore(address)


def _is_postgres(settings: Settings) -> bool:
    return _address(settings).startswith(("postgresql://", "postgres://"))


def _address(settings: Settings) -> str:
    if has_password(settings.vault):
        raise SettingsError(
            "The vault's address contains a password",
            where="settings.vault",
            remedy="Write env:NAME or file:PATH in place of the password.",
        )
    return resolve_references({"vault": settings.vault}, home=settings.home)["vault"]


def vault_file(settings: Settings) -> Path | None:
    """Return the file of the home's vault; None: the vault is in PostgreSQL.

    Raises:
        SettingsError: see ``open_store``.
    """
    return None if _is_postgres(settings) else settings.path(_address(settings))


def vault_id(settings: Settings) -> str:
    """Return the id of the home's vault; empty: there is no vault yet. It needs no key, and creates no vault.

    Raises:
        SettingsError: see ``open_store``.
        ServiceUnavailable: it cannot be read.
    """
    if not _is_postgres(settings) and not settings.path(_address(settings)).exists():
        return ""
    store = open_store(settings)
    try:
        rows = store.read("SELECT id FROM vault")
        return str(rows[0][0]) if rows else ""
    finally:
        store.close()


def certificates_pending(settings: Settings) -> set[str]:
    """Return the certificates of the erasures under way. It needs no key, and creates no vault.

    Raises:
        SettingsError: see ``open_store``.
        ServiceUnavailable: it cannot be read.
    """
    if not vault_id(settings):
        return set()
    store = open_store(settings)
    try:
        return {str(certificate) for (certificate,) in store.read("SELECT certificate FROM pending")}
    finally:
        store.close()


def look_at_vault(settings: Settings) -> VaultStatus | None:
    """Return the status of the home's vault; None: there is no vault yet. It needs no key, and creates no vault.

    Raises:
        SettingsError: see ``open_store``.
        ServiceUnavailable: it cannot be read.
    """
    if not _is_postgres(settings) and not settings.path(_address(settings)).exists():
        return None
    store = open_store(settings)
    try:
        return read_status(store)
    finally:
        store.close()


def try_vault(settings: Settings) -> VaultStatus | None:
    """Return the status of the home's vault, after trying whether the key service unwraps its keys.

    Raises:
        KeyRevoked, ServiceUnavailable: the key service does not unwrap them.
    """
    service = open_key_service(settings)
    service.unwrap(service.wrap(b"probe", context=b"probe"), context=b"probe")
    found = look_at_vault(settings)
    if found is not None:
        store = open_store(settings)
        try:
            unwrapped(read_keys(store), service)
        finally:
            store.close()
    return found
