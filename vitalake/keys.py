"""Reads and changes the key file: named, versioned keys in one file that only its owner can read."""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vitalake.errors import OutOfReach, PrivacyError
from vitalake.strict_yaml import read_yaml

KeyName = Literal["pseudonym", "observation", "quarantine", "care", "vault", "audit", "serving", "message"]
KEY_NAMES: tuple[KeyName, ...] = get_args(KeyName)
KEY_BYTES = 32

ADDED_LATER = frozenset({"message"})
"""Keys that the key file of an earlier release lacks. It can be read without them: only publishing needs them."""


@dataclass(frozen=True, slots=True)
class Key:
    """One version of a named key.

    Attributes:
        name: the use of the key, one of KEY_NAMES.
        version: ``v1``, ``v2`` …
        secret: 32 bytes; hidden in repr.
    """

    name: str
    version: str
    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Return ``name/version``, as it is stored beside everything that the key encrypts."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All versions of all keys; ``current`` is the one to write with."""

    keys: dict[str, tuple[Key, ...]]
    current_versions: dict[str, str]

    def current(self, name: KeyName) -> Key:
        """Return the version of ``name`` to write with.

        Raises:
            PrivacyError: there is no such key.
        """
        return self.get(f"{name}/{self.current_versions.get(name, '')}")

    def versions(self, name: KeyName) -> tuple[Key, ...]:
        """Return every version of ``name``, oldest first."""
        return self.keys.get(name, ())

    def get(self, key_id: str) -> Key:
        """Return the key with an id, as ``Key.id`` gives it.

        Raises:
            PrivacyError: the key file does not hold it.
        """
        name = key_id.partition("/")[0]
        for key in self.keys.get(name, ()):
            if key.id == key_id:
                return key
        raise PrivacyError("Key not found", where=key_id, remedy="Restore the key file that holds it.")


def create_key_file(path: Path) -> None:
    """Write a key file with version ``v1`` of every key, readable by its owner only.

    Raises:
        FileExistsError: the file is there already; keys are never overwritten.
    """
    _write(path, {"keys": {name: _new_key() for name in KEY_NAMES}})


def add_missing_keys(path: Path) -> list[str]:
    """Add the keys that this release needs and a key file lacks; return their names. Existing keys stay.

    Raises:
        PrivacyError: it is missing, not a key file, or open to others.
        OSError: it cannot be written; it stays as it was.
    """
    document, ring = _read(path)
    missing = [name for name in KEY_NAMES if name not in ring.keys]
    if missing:
        document["keys"] |= {name: _new_key() for name in missing}
        _replace(path, document)
    return list(missing)


def next_version(ring: KeyRing, name: KeyName) -> str:
    """Return the version that a new key of this name would have."""
    return f"v{max(int(key.version[1:]) for key in ring.versions(name)) + 1}"


def version_of(pseudonym: str) -> str:
    """Return the version of the key that a pseudonym was made with, such as ``v2``; empty: it does not say so."""
    version, dot, _ = pseudonym.partition(".")
    return version if dot and version[:1] == "v" and version[1:].isdigit() else ""


def add_version(path: Path, name: KeyName, version: str) -> None:
    """Add a version of a key if it is not there, and make it the one to write with. Older versions stay.

    Raises:
        PrivacyError: it is missing, not a key file, or open to others.
        OSError: it cannot be written; it stays as it was.
    """
    with _locked(path):  # of two processes at once the second must see the version that the first has added
        document, ring = _read(path)
        entry = document["keys"][name]
        if version not in {key.version for key in ring.versions(name)}:
            entry["versions"][version] = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        if entry["current"] != version:
            entry["current"] = version
            _replace(path, document)


def retire_version(path: Path, name: KeyName, version: str) -> None:
    """Remove a version of a key from a key file, for good.

    Raises:
        PrivacyError: it is the one to write with, or not there; or the file is missing, damaged or open to others.
        OSError: it cannot be written; it stays as it was.
    """
    with _locked(path):
        document, ring = _read(path)
        entry = document["keys"].get(name, {"current": "", "versions": {}})
        if version == entry["current"] or version not in {key.version for key in ring.versions(name)}:
            raise PrivacyError(
                "Key is in use, or not there",
                where=f"{name}/{version}",
                remedy="'vitalake keys status' shows the keys and their versions.",
            )
        del entry["versions"][version]
        _replace(path, document)


def load_keys(path: Path) -> KeyRing:
    """Return the keys of a key file.

    Raises:
        PrivacyError: the file is missing, readable by others, not a key file, or lacks a key. The error shows no
            content.
    """
    _, ring = _read(path)
    missing = [name for name in KEY_NAMES if name not in ring.keys and name not in ADDED_LATER]
    if missing:
        raise PrivacyError(
            f"Key file lacks {', '.join(missing)}",
            where=str(path),
            remedy="Run 'vitalake init': it adds what is missing.",
        )
    return ring


def _new_key() -> dict[str, Any]:
    return {"current": "v1", "versions": {"v1": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}}


def _write(path: Path, document: dict[str, Any]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(
            "# Secret. Who has this file can name the patients behind pseudonyms and read all that is encrypted.\n"
        )
        yaml.safe_dump(document, out, sort_keys=False)
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the folder of a key file: a change replaces the file, so the file itself cannot be locked."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, document: dict[str, Any]) -> None:
    """Replace a key file atomically, and make that durable."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _write(staged, document)
    staged.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> tuple[dict[str, Any], KeyRing]:
    remedy = "Run 'vitalake init', or point settings.keys at the right file."
    try:
        mode = path.stat().st_mode
        text = path.read_text(errors="replace")  # a binary file is refused below, as not a key file
    except OSError as error:
        raise OutOfReach(f"Key file cannot be read ({error.strerror})", where=str(path), remedy=remedy) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OutOfReach("Key file is open to others", where=str(path), remedy=f"Run: chmod 600 {path}")
    try:
        document = read_yaml(text)
        keys: dict[str, tuple[Key, ...]] = {}
        current: dict[str, str] = {}
        for name, entry in document["keys"].items():
            versions = tuple(
                Key(name, version, base64.b64decode(secret, validate=True))
                for version, secret in entry["versions"].items()
            )
            if any(len(key.secret) != KEY_BYTES for key in versions) or entry["current"] not in entry["versions"]:
                raise ValueError
            keys[name], current[name] = versions, entry["current"]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, binascii.Error):
        raise PrivacyError("Key file is not a key file", where=str(path), remedy=remedy) from None
    return document, KeyRing(keys, current)
