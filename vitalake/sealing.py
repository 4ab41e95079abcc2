"""Seals small values one by one: encrypts them, and binds each to its place, so that it cannot be moved elsewhere."""

from __future__ import annotations

import os
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vitalake.errors import PrivacyError
from vitalake.keys import Key

_NONCE_BYTES = 12


class Seals(Protocol):
    """Seals and opens the values of a store."""

    def seal(self, plain: bytes, *, context: bytes) -> bytes:
        """Return the value encrypted, and bound to its place."""
        ...

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Return the plain value of a value that was sealed for this place.

        Raises:
            PrivacyError: it was sealed with another key, for another place, or was changed; or keys are revoked.
        """
        ...

    def hold(self) -> None:
        """Check that the keys may be used now.

        Raises:
            PrivacyError: keys are revoked.
        """
        ...

    def close(self) -> None:
        """Forget the keys."""
        ...


class Sealer:
    """AES-256-GCM with one key; a sealed value is nonce, ciphertext and tag."""

    def __init__(self, key: Key) -> None:
        self._name, self._cipher = key.id, AESGCM(key.secret)

    def hold(self) -> None:
        """Do nothing: the key of a file cannot be revoked."""

    def close(self) -> None:
        """Do nothing."""

    def seal(self, plain: bytes, *, context: bytes) -> bytes:
        """Return the value encrypted, and bound to its place.

        Args:
            plain: the value.
            context: the place, such as table and row key; it is not secret, and the same one is needed to open.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Return the plain value of a value that was sealed for this place.

        Raises:
            PrivacyError: it was sealed with another key, for another place, or was changed.
        """
        opened = self.try_open(sealed, context=context)
        if opened is None:
            raise PrivacyError(
                "Sealed value cannot be opened",
                where=f"key {self._name}",
                remedy="Restore the key file that the value was sealed with.",
            )
        return opened

    def try_open(self, sealed: bytes, *, context: bytes) -> bytes | None:
        """Return the plain value as ``open`` does; None: another key, another place, or it was changed."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            return None
