"""From the settings to an open vault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from governance.keyservice import open_key_service
from governance.vault.erasure_log import ErasureLog
from governance.vault.lease import read_keys, unwrapped
from governance.vault.old_form import take_over
from governance.vault.on_sqlite import SqliteStore
from governance.vault.status import VaultStatus, read_status
from governance.vault.store import Store
from governance.vault.vault import Vault
from vitalake.errors import SettingsError
from vitalake.keys import KeyRing
from vitalake.settings import Settings, has_password, resolve_references


def open_vault(settings: Settings, keys: KeyRing, *, used: Callable[[str], None] = lambda _: None) -> Vault:
    """Return the home's vault, opened.

    Args:
        settings: of the home.
        keys: its key file's.
        used: see Vault.

    Raises:
        SettingsError: its address does not fit.
        PrivacyError: the log of erasures is not this vault's, or it was sealed with another key.
        ServiceUnavailable: it cannot be opened.
    """
    key, store = keys.current("vault"), open_store(settings)
    log = ErasureLog(settings.path(settings.erasures), key.secret)
    try:
        vault = Vault(store, key, open_key_service(settings), log, used=used)
        if isinstance(store, SqliteStore):
            take_over(vault, store, key)
    except BaseException:
        store.close()
        raise
    return vault


def open_store(settings: Settings) -> Store:
    """Return the vault's tables.

    Raises:
        SettingsError: the address has a password in clear, leads nowhere, or the extra 'postgres' is not installed.
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
            "Password stands in the vault's address",
            where="settings.vault",
            remedy="Secrets go by reference: write env:NAME or file:PATH in its place.",
        )
    return resolve_references({"vault": settings.vault}, home=settings.home)["vault"]


def vault_file(settings: Settings) -> Path | None:
    """Return the file of the home's vault; None: it lies in PostgreSQL.

    Raises:
        SettingsError: see ``open_store``.
    """
    return None if _is_postgres(settings) else settings.path(_address(settings))


def vault_id(settings: Settings) -> str:
    """Return the id of the home's vault, without a key and without making one; empty: there is none yet.

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
    """Return the certificates of the erasures under way, without a key and without making a vault.

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
    """Return what there is in the home's vault, without a key and without making one; None: there is none yet.

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
    """Return what ``look_at_vault`` does, after the key service has shown that it opens the vault's keys.

    Raises:
        KeyRevoked, ServiceUnavailable: it does not.
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
