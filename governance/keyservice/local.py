"""The key service of one machine: a file for its owner only, with a state and one secret for each version."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.keyservice.service import KeyRevoked, KeyVersion, Wrapped
from vitalake import clock
from vitalake.causes import unavailable
from vitalake.errors import OutOfReach, PrivacyError, ServiceUnavailable
from vitalake.folders import folder_lock, sync_folder
from vitalake.strict_yaml import read_yaml

KEY_BYTES = 32
_NONCE_BYTES = 12
_HEAD = "# Secret. Wraps the keys of the vault: who has this file and the vault can read every patient's values.\n"


def create_local_service(path: Path) -> None:
    """Write the file of a new service, readable by its owner only.

    Raises:
        FileExistsError: the file exists already; keys are never overwritten.
    """
    # The id keeps a new file from being taken for the one that wrapped the vault's keys.
    service = secrets.token_hex(4)
    _write(path, {"service": service, "state": "enabled", "current": "v1", "versions": {"v1": _new_version()}})


class LocalKeyService:
    """Wraps with AES-256-GCM. The file is read again at every use, so a change of it takes effect at once."""

    kind = "local"

    def __init__(self, path: Path) -> None:
        self._path = path

    def wrap(self, plain: bytes, *, context: bytes) -> Wrapped:
        """Return a key wrapped by the current version; see KeyService."""
        document = self._enabled()
        version, nonce = document["current"], os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(_secret(document, version)).encrypt(nonce, plain, context)
        return Wrapped(_id(document, version), sealed)

    def unwrap(self, wrapped: Wrapped, *, context: bytes) -> bytes:
        """Return the key that was wrapped; see KeyService."""
        document = self._enabled()
        version = self._version_of(document, wrapped.key_id)
        try:
            nonce, sealed = wrapped.sealed[:_NONCE_BYTES], wrapped.sealed[_NONCE_BYTES:]
            return AESGCM(_secret(document, version)).decrypt(nonce, sealed, context)
        except (InvalidTag, ValueError):
            raise PrivacyError(
                "Wrapped key cannot be opened",
                where=f"key {wrapped.key_id}",
                remedy="It was changed, or belongs to another vault: restore the vault from its back-up.",
            ) from None

    def status(self) -> list[KeyVersion]:
        """Return the versions, oldest first."""
        document = self._read()
        revoked = document["state"] == "revoked"
        return [
            KeyVersion(
                _id(document, name),
                "destroyed" if "secret" not in entry else "revoked" if revoked else "enabled",
                name == document["current"],
                datetime.fromisoformat(entry["made_at"]),
            )
            for name, entry in document["versions"].items()
        ]

    def rotate(self) -> str:
        """Make a version that wraps from now on."""
        with self._changed() as document:
            _refuse_revoked(document, self._path)
            name = f"v{len(document['versions']) + 1}"
            document["versions"][name] = _new_version()
            document["current"] = name
            return _id(document, name)

    def destroy(self, key_id: str) -> bool:
        """Remove the secret of a version that is not current."""
        with self._changed() as document:
            name = self._version_of(document, key_id, also_destroyed=True)
            if name == document["current"]:
                raise PrivacyError(
                    "The current key cannot be destroyed",
                    where=f"key {key_id}",
                    remedy="Run 'vitalake keys rotate' first.",
                )
            return document["versions"][name].pop("secret", None) is not None

    def revoke(self, key_ids: Iterable[str] = ()) -> None:
        """Revoke all versions until ``restore``."""
        with self._changed() as document:
            document["state"] = "revoked"

    def restore(self, key_ids: Iterable[str] = ()) -> None:
        """Enable all versions again."""
        with self._changed() as document:
            document["state"] = "enabled"

    def _enabled(self) -> dict[str, Any]:
        document = self._read()
        _refuse_revoked(document, self._path)
        return document

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """Yield the document under a lock, and write the changed document as a whole; after an error, write nothing."""
        try:
            with folder_lock(self._path.parent):
                document = self._read()
                yield document
                staged = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
                try:
                    _write(staged, document)
                    staged.replace(self._path)
                finally:
                    staged.unlink(missing_ok=True)
                sync_folder(self._path.parent)
        except OSError as error:
            raise ServiceUnavailable(
                f"Key service's file cannot be written ({error.strerror})",
                where=self._path.name,
                remedy="Check its disk and permissions.",
            ) from None

    def _read(self) -> dict[str, Any]:
        where = self._path.name
        try:
            mode, text = self._path.stat().st_mode, self._path.read_text(errors="replace")
        except (FileNotFoundError, PermissionError) as error:
            raise KeyRevoked(
                f"Wrapping key is out of reach ({error.strerror})",
                where=where,
                remedy="Bring the file back. If the home never had one, run 'vitalake init'.",
            ) from None
        except (OSError, ValueError) as error:
            raise unavailable(
                error, "Key service's file cannot be read", where=where, remedy="Check its disk."
            ) from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise OutOfReach("Key service's file is open to others", where=where, remedy=f"Run: chmod 600 {where}")
        try:
            return _checked(read_yaml(text))
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, binascii.Error):
            raise PrivacyError(
                "Key service's file is not valid", where=where, remedy="Restore it from its back-up."
            ) from None

    def _version_of(self, document: dict[str, Any], key_id: str, *, also_destroyed: bool = False) -> str:
        for name, entry in document["versions"].items():
            if _id(document, name) == key_id and (also_destroyed or "secret" in entry):
                return str(name)
        raise KeyRevoked(
            "Wrapping key is out of reach (this file does not contain it)",
            where=f"{self._path.name}, key {key_id}",
            remedy="Restore the key service's file that the vault was made with.",
        )


def _refuse_revoked(document: dict[str, Any], path: Path) -> None:
    if document["state"] == "revoked":
        raise KeyRevoked(
            "Wrapping key is revoked", where=path.name, remedy="Run 'vitalake keys revoke --undo' to enable it again."
        )


def _id(document: dict[str, Any], version: str) -> str:
    return f"local/{document['service']}/{version}"


def _secret(document: dict[str, Any], version: str) -> bytes:
    return base64.b64decode(document["versions"][version]["secret"], validate=True)


def _new_version() -> dict[str, str]:
    secret = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    return {"made_at": clock.now().isoformat(timespec="seconds"), "secret": secret}


def _checked(document: Any) -> dict[str, Any]:
    """Return the document after checking its form.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: it is not the document of a key service.
    """
    versions = document["versions"]
    if document["state"] not in ("enabled", "revoked") or "secret" not in versions[document["current"]]:
        raise ValueError
    for name, entry in versions.items():
        datetime.fromisoformat(entry["made_at"])
        if "secret" in entry and len(_secret(document, name)) != KEY_BYTES:
            raise ValueError
    str(document["service"])
    found: dict[str, Any] = document
    return found


def _write(path: Path, document: dict[str, Any]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(_HEAD)
        yaml.safe_dump(document, out, sort_keys=False)
        out.flush()
        os.fsync(out.fileno())
