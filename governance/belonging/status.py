"""Reports whether a home belongs to its lake, without a key service and without creating anything."""

from __future__ import annotations

import msgspec

from governance.belonging.erasures import FILE, ErasureCopies
from governance.belonging.fingerprints import fingerprints_of, read_fingerprints
from governance.belonging.opening import holds_sealed, other_keys, other_vault
from governance.vault.erasure_log import ErasureLog
from governance.vault.opening import certificates_pending, look_at_vault, vault_id
from vitalake.errors import PrivacyError, ServiceUnavailable, VitaLakeError
from vitalake.keys import KeyRing
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings


class Belonging(msgspec.Struct, frozen=True):
    """Whether a home belongs to its lake.

    Attributes:
        known: whether the lake keeps fingerprints; it does once a home has written into it.
        keys: the keys with a fingerprint, as ``name/version``.
        problems: why the home does not belong to the lake, or that one of them was restored; empty: it belongs to it.
        put_back: whether the problem is that home or lake was restored from before an erasure.
        damaged: what is damaged of the erasure log, its copies, certificates and marks.
    """

    known: bool
    keys: list[str]
    problems: list[VitaLakeError]
    put_back: bool = False
    damaged: list[PrivacyError] = []


def examine_belonging(settings: Settings, keys: KeyRing) -> Belonging:
    """Return whether a home belongs to its lake, and what is wrong.

    Raises:
        LakeError: the lake's fingerprints cannot be read.
        ServiceUnavailable: the vault cannot be read.
        OSError: the lake cannot be reached.
    """
    storage = open_storage(settings.lake_uri, settings.storage_options)
    known = read_fingerprints(storage)
    if known is None:
        lost = not vault_id(settings) and holds_sealed(storage)
        return Belonging(False, [], [other_vault(is_there=False)] if lost else [])
    ours = fingerprints_of(keys, vault_id(settings))
    problems: list[VitaLakeError] = []
    if differing := known.differing(ours):
        problems.append(other_keys(differing))
    elif known.vault and known.vault != ours.vault:
        problems.append(other_vault(is_there=bool(ours.vault)))
    belongs = not problems
    damaged = list[PrivacyError]()
    if belongs:
        copies = ErasureCopies(settings, keys, storage)
        damaged = copies.damaged_logs()
        if not damaged and (error := _restored(settings, copies)):
            problems.append(error)
        elif not damaged:
            damaged = copies.damaged_records()
    names = [f"{name}/{version}" for name, versions in sorted(known.keys.items()) for version in versions]
    return Belonging(True, names, problems, belongs and bool(problems), damaged)


def _restored(settings: Settings, copies: ErasureCopies) -> PrivacyError | None:
    try:
        copies.refuse_unknown(lambda: certificates_pending(settings))
        copies.refuse_restored_lake(lambda: certificates_pending(settings))
        return copies.restored_home()
    except PrivacyError as error:
        return error


def repair_erasure_records(settings: Settings, keys: KeyRing) -> list[str]:
    """Write damaged erasure logs, copies and marks again; return a sentence for each.

    Nothing is repaired if the home does not belong to the lake, or if one of them was restored: opening the vault
    reports that.

    Raises:
        LakeError: the lake's fingerprints cannot be read.
        ServiceUnavailable: lake, log or vault cannot be read or written.
    """
    try:
        found = examine_belonging(settings, keys)
        if not found.known or found.problems or not found.damaged:
            return []
        vault = look_at_vault(settings)
        copies = ErasureCopies(settings, keys, open_storage(settings.lake_uri, settings.storage_options))
        return copies.repair(known=0 if vault is None else vault.erased, pending=certificates_pending(settings))
    except OSError as error:
        raise ServiceUnavailable(
            f"Lake cannot be reached ({type(error).__name__})",
            where="settings.lake",
            remedy="Check its address and disk.",
        ) from None


def refuse_restored_lake(settings: Settings, keys: KeyRing) -> None:
    """Check that the lake has all erasures of the home's log; for readers that show rows without opening the vault.

    If the home has erased nobody, nothing of the lake is read; otherwise one small file, if all is well.

    Raises:
        PrivacyError: the lake was restored from before an erasure.
        LakeError: the lake's fingerprints or format cannot be read.
        ServiceUnavailable: lake, log or vault cannot be read.
    """
    log = ErasureLog(settings.path(settings.erasures), keys.current("vault").secret)
    if not (count := len(log.entries())):
        return
    try:
        storage = open_storage(settings.lake_uri, settings.storage_options)
        if (storage.read_small(FILE) or b"").count(b"\n") < count and read_fingerprints(storage) is not None:
            ErasureCopies(settings, keys, storage).refuse_restored_lake(lambda: certificates_pending(settings))
    except OSError as error:
        raise ServiceUnavailable(
            f"Lake cannot be reached ({type(error).__name__})",
            where="settings.lake",
            remedy="Check address and disk. Until then, it is not known whether the lake holds erased patients again.",
        ) from None
