"""Whether a home belongs to its lake, for people: looked at without a key service, and without making anything."""

from __future__ import annotations

import msgspec

from vitalake.belonging.fingerprints import fingerprints_of, read_fingerprints
from vitalake.belonging.opening import other_keys, other_vault
from vitalake.errors import VitaLakeError
from vitalake.keys import KeyRing
from vitalake.lake.storage import open_storage
from vitalake.settings import Settings
from vitalake.vault.opening import vault_id


class Belonging(msgspec.Struct, frozen=True):
    """How a home stands to its lake.

    Attributes:
        known: whether the lake keeps fingerprints; it does once a home has written into it.
        keys: those of which it does, as ``name/version``.
        problems: why it is not the lake's home; empty: it is.
    """

    known: bool
    keys: list[str]
    problems: list[VitaLakeError]


def look(settings: Settings, keys: KeyRing) -> Belonging:
    """Return how a home stands to its lake.

    Raises:
        LakeError: the lake's fingerprints cannot be read.
        ServiceUnavailable: the vault cannot be read.
        OSError: the lake cannot be reached.
    """
    known = read_fingerprints(open_storage(settings.lake_uri, settings.storage_options))
    if known is None:
        return Belonging(False, [], [])
    ours = fingerprints_of(keys, vault_id(settings))
    problems: list[VitaLakeError] = []
    if differing := known.differing(ours):
        problems.append(other_keys(differing))
    elif known.vault and known.vault != ours.vault:
        problems.append(other_vault(is_there=bool(ours.vault)))
    names = [f"{name}/{version}" for name, versions in sorted(known.keys.items()) for version in versions]
    return Belonging(True, names, problems)
