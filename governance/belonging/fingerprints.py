"""Fingerprints of keys and vault, which the lake keeps to recognise its home; they reveal nothing about the keys.

A fingerprint is an HMAC of the key's name under the key itself. Whoever has the key can make it again, and nobody can
derive the key from it, because the key is 32 random bytes.
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
"""Keys without a fingerprint: no row in the lake is found or recognised by them. They are the keys of the stores beside
it, of the audit, of what a server signs, and of dead letters, which name their key and expire."""

_BYTES = 16


class Fingerprints(msgspec.Struct, frozen=True):
    """The fingerprints that a lake keeps of the home that writes into it.

    Attributes:
        keys: name → version → fingerprint.
        current: name → the version that the home writes with.
        vault: fingerprint of the vault; empty: no vault was ever opened for this lake.
    """

    keys: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    vault: str = ""

    def differing(self, other: Fingerprints) -> list[str]:
        """Return the keys that show that a home is not the lake's, such as ``pseudonym/v1``; empty: it is the lake's.

        A home may have keys that the lake does not know: one that a newer release needs, or a version that a re-key has
        just made. The home must have the version that the lake is written with, and must write with that version or
        with one that the lake does not know yet.

        Args:
            other: the fingerprints of the home.
        """
        differing = []
        for name, versions in sorted(self.keys.items()):
            ours, used, now = other.keys.get(name, {}), self.current[name], other.current.get(name, "")
            differing += [f"{name}/{v}" for v in sorted(versions.keys() & ours.keys()) if versions[v] != ours[v]]
            if used not in ours or (now in versions and now != used):
                differing.append(f"{name}/{used}")
        return differing

    def extended(self, other: Fingerprints) -> Fingerprints:
        """Return these fingerprints, with those added that only the home has."""
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
    """Return whether there is a lake of this release's format; only an upgrade may write into one of another format."""
    found = read_format(storage)
    return storage.holds_table("spans") and found.format == FORMAT and not found.upgrading


def read_fingerprints(storage: Storage) -> Fingerprints | None:
    """Return the fingerprints that the lake keeps; None: it has none yet.

    Raises:
        LakeError: the file is not one of fingerprints.
        OSError: the file cannot be read.
    """
    content = storage.read_small(FILE)
    try:
        return None if content is None else msgspec.json.decode(content, type=Fingerprints)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise LakeError(
            "Fingerprints of keys and vault cannot be read",
            where=FILE,
            remedy="Restore the file, or delete it: a home that can open the lake's rows writes it again.",
        ) from None


def write_fingerprints(storage: Storage, found: Fingerprints) -> None:
    """Write fingerprints into the lake.

    Raises:
        OSError: it cannot be written.
    """
    storage.write_small(FILE, msgspec.json.format(msgspec.json.encode(found, order="sorted"), indent=1) + b"\n")
