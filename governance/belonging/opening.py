"""Opens a home's vault for writers of its lake and readers of identified rows, if home and lake belong together."""

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
    allow_restored_lake: bool = False,
    upgrading: bool = False,
    used: Callable[[str], None] = lambda _: None,
) -> Vault:
    """Open and return the home's vault, after checking that keys, vault and lake belong together.

    A lake without fingerprints gets those of this home if its rows show that this home wrote them. If the home or its
    erasure log was restored from a back-up, patients erased since then are first erased again in the vault.

    Args:
        settings: of the home.
        keys: its key file's.
        allow_restored_lake: accept a lake that was restored from before erasures; for a caller that erases them again.
        upgrading: also write fingerprints into a lake of another format.
        used: see Vault.

    Raises:
        SettingsError: the vault's address is not valid.
        PrivacyError: they do not belong together; or the erasure log belongs to another vault or lacks entries, and no
            copy has them; or the lake was restored from before an erasure.
        KeyRevoked: rows have to be opened for the check, and the key is revoked.
        ServiceUnavailable: lake or vault cannot be reached.
    """
    storage = open_storage(settings.lake_uri, settings.storage_options)
    try:
        known = read_fingerprints(storage)
        identity = vault_id(settings)
        _refuse_other(known, fingerprints_of(keys, identity))
        if not identity and holds_sealed(storage):  # also checked if the fingerprints are missing too
            refuse_other_pseudonyms(storage, keys)
            raise other_vault(is_there=False)
        copies = ErasureCopies(settings, keys, storage, upgrading=upgrading)
        copies.extend_log()
        vault = open_unchecked(settings, keys, used=used)
        try:
            copies.refuse_unknown(vault.certificates_pending)
            if upgrading or may_write(storage):
                _introduce(storage, keys, vault, known, copies, allow_restored_lake=allow_restored_lake)
            else:
                copies.update(vault, allow_restored_lake=allow_restored_lake)
        except BaseException:
            vault.close()
            raise
    except OSError as error:
        raise ServiceUnavailable(
            f"Lake cannot be reached ({type(error).__name__})",
            where="settings.lake",
            remedy="Check address, keys and disk. Without the lake, it is not known whether this home belongs to it.",
        ) from None
    return vault


def admit(settings: Settings, *, upgrading: bool = False, any_format: bool = False, identified: bool = False) -> None:
    """Check that this home may write into its lake; call it before anything is opened, recorded or written.

    Args:
        settings: of the home.
        upgrading: see open_vault; the lake may have an older format.
        any_format: the lake may have any format; for a repair.
        identified: the caller will open identified rows or messages, so the keys must not be revoked.

    Raises:
        LakeError: the lake has another format than this release writes.
        VitaLakeError: as open_vault.
        KeyRevoked, ServiceUnavailable: the keys are revoked, or the key service does not answer; if ``identified``.
    """
    # There is nothing to compare, and a caller that is refused later for another reason must leave no vault behind.
    if _is_new(settings):
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
    except OSError:  # the lake cannot be reached: open_vault reports it with its remedy
        return False


def holds_sealed(storage: Storage) -> bool:
    """Return whether the lake has identified rows, which are sealed by a vault."""
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
        "The lake's rows are sealed by another vault than this home's" if is_there else "The vault is gone",
        "settings.vault",
        "Restore the vault from its back-up: with another one no identified row of the lake can be read.",
    )


def introduce(settings: Settings, keys: KeyRing, vault: Vault) -> None:
    """Write this home's fingerprints into a lake that was created after the vault was opened.

    Raises:
        PrivacyError: the lake belongs to another home.
        OSError: the lake cannot be reached.
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
    allow_restored_lake: bool = False,
) -> None:
    """Write this home's copy of the erasure log and its fingerprints into its own lake, if there is a lake.

    The copy comes first: a lake with fingerprints and without a copy is taken for one restored from a back-up.
    """
    proven = known is not None or (storage.holds_table("spans") and prove(storage, keys, vault))
    copies.update(vault, allow_restored_lake=allow_restored_lake, introducing=known is None)
    if not (proven and storage.holds_table("spans")):
        return
    ours = fingerprints_of(keys, vault.id)
    extended = (known or Fingerprints()).extended(ours)
    if extended != known:
        write_fingerprints(storage, extended)
