"""Opens the home's online store, under the vault's lease."""

from __future__ import annotations

from typing import cast

from governance.belonging.stores import StoreSealer
from governance.erasure.forgotten import catch_up as forget_again
from governance.keyuse import open_vault
from governance.vault import Vault
from pipelines.online_store.store import OnlineStore
from vitalake.keys import KeyRing
from vitalake.settings import Settings


def open_online_store(
    settings: Settings, keys: KeyRing, *, vault: Vault | None = None, purpose: str = "care", catch_up: bool = True
) -> OnlineStore:
    """Open the home's online store.

    Args:
        settings: of the home.
        keys: of the home's key file.
        vault: under whose lease the store's key is used, of the same thread; None: opens one, and closes it with the
            store.
        purpose: for which that vault is opened.
        catch_up: first forget the patients who were erased since the store was backed up.

    Raises:
        ServiceUnavailable: its file cannot be opened.
        PrivacyError: the vault is not the lake's.
    """
    sealer = store_sealer(settings, keys, "care", vault=vault, purpose=purpose)
    try:
        store = OnlineStore(settings.path(settings.care.path), sealer, hours=settings.care.hours)
    except BaseException:
        sealer.close()
        raise
    if catch_up:
        try:
            forget_again(store.erasure, settings, keys)
        except BaseException:
            store.close()
            raise
    return store


def store_sealer(
    settings: Settings, keys: KeyRing, name: str, *, vault: Vault | None = None, purpose: str
) -> StoreSealer:
    """Return the sealer of a store beside the lake, which works under the vault's lease; see open_online_store.

    Raises:
        VitaLakeError: as governance.keyuse.open_vault.
    """
    owned = open_vault(settings, keys, purpose=purpose) if vault is None else None
    return StoreSealer(owned or cast(Vault, vault), name, keys.current("care"), owned=owned is not None)
