"""Encrypts small values one by one: what is sealed says nothing, and cannot be passed off as something else."""

from __future__ import annotations

import os
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vitalake.errors import PrivacyError
from vitalake.keys import Key

_NONCE_BYTES = 12


class Seals(Protocol):
    """What a store's values are sealed and opened with."""

    def seal(self, plain: bytes, *, context: bytes) -> bytes:
        """Return the value encrypted, bound to where it stands."""
        ...

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Return the value of what was sealed at this place.

        Raises:
            PrivacyError: it was sealed with another key, for another place, or was changed; or keys are revoked.
        """
        ...

    def hold(self) -> None:
        """Make sure that it may be used now.

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
        """Nothing to do: its key is nobody's to take away."""

    def close(self) -> None:
        """Nothing to do."""

    def seal(self, plain: bytes, *, context: bytes) -> bytes:
        """Return the value encrypted, bound to where it stands.

        Args:
            plain: the value.
            context: the place, such as table and key; not secret, and needed again to open.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Return the value of what was sealed at this place.

        Raises:
            PrivacyError: it was sealed with another key, for another place, or was changed.
        """
        opened = self.try_open(sealed, context=context)
        if opened is None:
            raise PrivacyError(
                "Sealed value cannot be opened",
                where=f"key {self._name}",
                remedy="Restore the key file it was made with.",
            )
        return opened

    def try_open(self, sealed: bytes, *, context: bytes) -> bytes | None:
        """Return the value of what was sealed at this place; None: not with this key, not there, or it was changed."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            return None
