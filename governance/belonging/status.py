"""Whether a home belongs to its lake, for people: looked at without a key service, and without making anything."""

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
    """How a home stands to its lake.

    Attributes:
        known: whether the lake keeps fingerprints; it does once a home has written into it.
        keys: those of which it does, as ``name/version``.
        problems: why it is not the lake's home, or which of the two was put back; empty: it is.
        put_back: whether they say that one was put back to a day before an erasure.
        damaged: what is damaged of the erasure log, its copies and what lies with them.
    """

    known: bool
    keys: list[str]
    problems: list[VitaLakeError]
    put_back: bool = False
    damaged: list[PrivacyError] = []


def look(settings: Settings, keys: KeyRing) -> Belonging:
    """Return how a home stands to its lake.

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
        if not damaged and (older := _put_back(settings, copies)):
            problems.append(older)
        elif not damaged:
            damaged = copies.damaged_records()
    names = [f"{name}/{version}" for name, versions in sorted(known.keys.items()) for version in versions]
    return Belonging(True, names, problems, belongs and bool(problems), damaged)


def _put_back(settings: Settings, copies: ErasureCopies) -> PrivacyError | None:
    try:
        copies.refuse_unknown(lambda: certificates_pending(settings))
        copies.refuse_put_back(lambda: certificates_pending(settings))
        return copies.older()
    except PrivacyError as error:
        return error


def mend_erasures(settings: Settings, keys: KeyRing) -> list[str]:
    """Write the erasure log, its copies and marks again where they are damaged; return which, in words.

    A home that is not the lake's, or a lake that is put back, is left to whoever opens the vault.

    Raises:
        LakeError: the lake's fingerprints cannot be read.
        ServiceUnavailable: lake, log or vault cannot be read or written.
    """
    try:
        found = look(settings, keys)
        if not found.known or found.problems or not found.damaged:
            return []
        vault = look_at_vault(settings)
        copies = ErasureCopies(settings, keys, open_storage(settings.lake_uri, settings.storage_options))
        return copies.mend(known=0 if vault is None else vault.erased, pending=certificates_pending(settings))
    except OSError as error:
        raise ServiceUnavailable(
            f"Lake cannot be reached ({type(error).__name__})",
            where="settings.lake",
            remedy="Check address and disk.",
        ) from None


def refuse_put_back(settings: Settings, keys: KeyRing) -> None:
    """Return if the lake has all erasures of the home's log: for who hands out rows without the vault.

    Of a home that has erased nobody nothing of the lake is read, and else one small file as long as all is well.

    Raises:
        PrivacyError: the lake was put back to a day before an erasure.
        LakeError: the lake's fingerprints or format cannot be read.
        ServiceUnavailable: lake, log or vault cannot be read.
    """
    log = ErasureLog(settings.path(settings.erasures), keys.current("vault").secret)
    if not (count := len(log.entries())):
        return
    try:
        storage = open_storage(settings.lake_uri, settings.storage_options)
        if (storage.read_small(FILE) or b"").count(b"\n") < count and read_fingerprints(storage) is not None:
            ErasureCopies(settings, keys, storage).refuse_put_back(lambda: certificates_pending(settings))
    except OSError as error:
        raise ServiceUnavailable(
            f"Lake cannot be reached ({type(error).__name__})",
            where="settings.lake",
            remedy="Check address and disk; whether it was put back cannot be told without it.",
        ) from None
