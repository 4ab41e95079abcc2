"""Opens a home's vault for those who write into its lake, or read what is identified: only if they belong together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from governance.belonging.erasures import ErasureCopies
from governance.belonging.fingerprints import (
    Fingerprints,
    fingerprints_of,
    may_write,
    read_fingerprints,
    write_fingerprints,
)
from governance.belonging.proof import prove, refuse_other_pseudonyms, refused
from governance.vault import Vault
from governance.vault.opening import open_vault as open_unchecked
from governance.vault.opening import vault_id
from vitalake.errors import PrivacyError, ServiceUnavailable
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.commits.format import check_writable
from vitalake.lake.commits.lake import restricted_name
from vitalake.lake.datasets.declared import published_datasets
from vitalake.lake.tables.storage import Storage, open_storage
from vitalake.settings import Settings


def open_vault(
    settings: Settings,
    keys: KeyRing,
    *,
    put_back: bool = False,
    upgrading: bool = False,
    used: Callable[[str], None] = lambda _: None,
) -> Vault:
    """Return the home's vault, opened, once it is sure that keys, vault and lake belong together.

    A lake without fingerprints gets this home's if its rows show that this home wrote them. What was erased since the
    home, or its log of erasures, was backed up is erased again first.

    Args:
        settings: of the home.
        keys: its key file's.
        put_back: also where the lake was put back to a day before erasures: for who erases them in it again.
        upgrading: also let a lake of another format know this home.
        used: see Vault.

    Raises:
        SettingsError: the vault's address does not fit.
        PrivacyError: they do not belong together; or the log of erasures is not this vault's, and nobody has a longer
            one; or the lake was put back.
        KeyRevoked: rows have to be opened to be sure, and the key is revoked.
        ServiceUnavailable: lake or vault cannot be reached.
    """
    storage = open_storage(settings.lake_uri, settings.storage_options)
    try:
        known = read_fingerprints(storage)
        identity = vault_id(settings)
        _refuse_other(known, fingerprints_of(keys, identity))
        if not identity and holds_sealed(storage):  # also where the fingerprints are gone too
            refuse_other_pseudonyms(storage, keys)
            raise other_vault(is_there=False)
        copies = ErasureCopies(settings, keys, storage, upgrading=upgrading)
        copies.level()
        vault = open_unchecked(settings, keys, used=used)
        try:
            copies.refuse_unknown(vault.certificates_pending)
            if upgrading or may_write(storage):
                _introduce(storage, keys, vault, known, copies, put_back=put_back)
            else:
                copies.keep(vault, put_back=put_back)
        except BaseException:
            vault.close()
            raise
    except OSError as error:
        raise ServiceUnavailable(
            f"Lake cannot be reached ({type(error).__name__})",
            where="settings.lake",
            remedy="Check address, keys and disk; whether this home is the lake's cannot be told without it.",
        ) from None
    return vault


def admit(settings: Settings, *, upgrading: bool = False, any_format: bool = False, identified: bool = False) -> None:
    """Return if this home may write into its lake: asked before anything is opened, recorded or written.

    Args:
        settings: of the home.
        upgrading: see open_vault; the lake may have an older format.
        any_format: so it may, for who repairs it.
        identified: the caller will open what is identified, rows or messages: the keys must not be revoked.

    Raises:
        LakeError: the lake has another format than this release writes.
        VitaLakeError: as open_vault.
        KeyRevoked, ServiceUnavailable: the keys may not be used, or nobody can say; if ``identified``.
    """
    if _is_new(settings):  # nothing to belong to; and who is refused for another reason leaves nothing behind
        return
    if not (upgrading or any_format):
        check_writable(open_storage(settings.lake_uri, settings.storage_options))
    with closing(open_vault(settings, Home(settings).keys, upgrading=upgrading)) as vault:
        if identified:
            vault.hold_keys()


def _is_new(settings: Settings) -> bool:
    """Return whether there is neither a vault nor anything in the lake."""
    storage = open_storage(settings.lake_uri, settings.storage_options)
    try:
        return not vault_id(settings) and read_fingerprints(storage) is None and not storage.holds_table("spans")
    except OSError:  # the lake cannot be reached, which open_vault says better
        return False


def holds_sealed(storage: Storage) -> bool:
    """Return whether the lake has identified rows, which some vault has sealed."""
    return any(storage.child(restricted_name(name)).files() for name in published_datasets())


def _refuse_other(known: Fingerprints | None, ours: Fingerprints) -> None:
    if known is None:
        return
    if differing := known.differing(ours):
        raise other_keys(differing)
    if known.vault and known.vault != ours.vault:
        raise other_vault(is_there=bool(ours.vault))


def other_keys(names: list[str]) -> PrivacyError:
    """Return the error of a home with other keys than the lake's."""
    return refused(
        "The lake was written with other keys than this home's",
        ", ".join(names),
        "Restore the key file (settings.keys) of the home that wrote it.",
    )


def other_vault(*, is_there: bool) -> PrivacyError:
    """Return the error of a home with another vault than the lake's, or without one."""
    return refused(
        "This home's vault is not the one that the lake's rows are sealed by" if is_there else "The vault is gone",
        "settings.vault",
        "Restore the vault from its back-up: with another one no identified row of the lake can be read.",
    )


def introduce(settings: Settings, keys: KeyRing, vault: Vault) -> None:
    """Let a lake that was made since the vault was opened know this home.

    Raises:
        PrivacyError: it is another home's.
        OSError: it cannot be reached.
    """
    storage = open_storage(settings.lake_uri, settings.storage_options)
    known = read_fingerprints(storage)
    _refuse_other(known, fingerprints_of(keys, vault.id))
    if may_write(storage):
        _introduce(storage, keys, vault, known, ErasureCopies(settings, keys, storage))


def _introduce(
    storage: Storage,
    keys: KeyRing,
    vault: Vault,
    known: Fingerprints | None,
    copies: ErasureCopies,
    *,
    put_back: bool = False,
) -> None:
    """Let the lake, if there is one, keep what it does not know yet of this home, which is its own.

    The copy of the erasure log comes first: a lake that knows its home and has none was put back.
    """
    proven = known is not None or (storage.holds_table("spans") and prove(storage, keys, vault))
    copies.keep(vault, put_back=put_back, introducing=known is None)
    if not (proven and storage.holds_table("spans")):
        return
    ours = fingerprints_of(keys, vault.id)
    wanted = (known or Fingerprints()).extended(ours)
    if wanted != known:
        write_fingerprints(storage, wanted)
