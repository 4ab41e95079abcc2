"""Fingerprints of keys and vault, which the lake keeps: one-way, so that the lake learns nothing by them.

A fingerprint is an HMAC under the key itself, of the key's own name: who has the key makes it again, and nobody comes
from it to the key, for that is 32 random bytes.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from vitalake.errors import LakeError
from vitalake.keys import Key, KeyRing
from vitalake.lake.commits.format import FORMAT, read_format
from vitalake.lake.tables.storage import Storage

FILE = "home.json"

NOT_KEPT = frozenset({"care", "audit", "serving", "quarantine"})
"""Keys that no row in the lake is found or recognised by: stores beside it, the audit, what a server signs; and dead
letters, which name their key each, and expire."""

_BYTES = 16


class Fingerprints(msgspec.Struct, frozen=True):
    """What a lake keeps of the home that writes into it.

    Attributes:
        keys: name → version → fingerprint.
        current: name → the version that is written with.
        vault: of the vault; empty: none was ever opened for this lake.
    """

    keys: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    vault: str = ""

    def differing(self, other: Fingerprints) -> list[str]:
        """Return the keys of a home by which it is not the lake's, such as ``pseudonym/v1``; empty: it is.

        A home may have more than the lake knows: a key that a newer release needs, and the version that a re-key has
        just made. What it writes with must be known to the lake, or be newer than what the lake is written with, which
        the home must have too.

        Args:
            other: those of the home.
        """
        found = []
        for name, versions in sorted(self.keys.items()):
            ours, used, now = other.keys.get(name, {}), self.current[name], other.current.get(name, "")
            found += [f"{name}/{v}" for v in sorted(versions.keys() & ours.keys()) if versions[v] != ours[v]]
            if used not in ours or (now in versions and now != used):
                found.append(f"{name}/{used}")
        return found

    def extended(self, other: Fingerprints) -> Fingerprints:
        """Return these with what the home has more."""
        keys = {name: self.keys.get(name, {}) | versions for name, versions in other.keys.items()}
        return Fingerprints(self.keys | keys, self.current | other.current, other.vault or self.vault)


def fingerprints_of(keys: KeyRing, vault: str) -> Fingerprints:
    """Return the fingerprints of a home.

    Args:
        keys: its key file's.
        vault: id of its vault; empty: there is none.
    """
    names = sorted(keys.keys.keys() - NOT_KEPT)
    made = {name: {key.version: _fingerprint(key, key.id) for key in keys.keys[name]} for name in names}
    current = {name: keys.current_versions[name] for name in names}
    return Fingerprints(made, current, _fingerprint(keys.current("vault"), f"vault {vault}") if vault else "")


def _fingerprint(key: Key, what: str) -> str:
    return hmac.digest(key.secret, b"vitalake fingerprint\0" + what.encode(), hashlib.sha256)[:_BYTES].hex()


def may_write(storage: Storage) -> bool:
    """Return whether there is a lake, of this release's format: nothing is written into another but by its upgrade."""
    found = read_format(storage)
    return storage.holds_table("spans") and found.format == FORMAT and not found.upgrading


def read_fingerprints(storage: Storage) -> Fingerprints | None:
    """Return what the lake keeps; None: nothing yet.

    Raises:
        LakeError: the file is none.
        OSError: it cannot be read.
    """
    content = storage.read_small(FILE)
    try:
        return None if content is None else msgspec.json.decode(content, type=Fingerprints)
    except msgspec.MsgspecError:
        raise LakeError(
            "Fingerprints of keys and vault cannot be read",
            where=FILE,
            remedy="Restore the file; or delete it: a home that opens the lake's rows writes it again.",
        ) from None


def write_fingerprints(storage: Storage, found: Fingerprints) -> None:
    """Let the lake keep them.

    Raises:
        OSError: it cannot be written.
    """
    storage.write_small(FILE, msgspec.json.format(msgspec.json.encode(found, order="sorted"), indent=1) + b"\n")
