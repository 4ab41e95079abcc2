"""Encrypts one value with a patient's or the vault's key, bound to the place where it is stored."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vitalake.errors import PrivacyError

KEY_BYTES = 32
_NONCE_BYTES = 12


def seal(cipher: AESGCM, plain: bytes, *context: bytes) -> bytes:
    """Encrypt a value; return nonce, ciphertext and tag. Opening it needs the same context."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, b"\0".join(context))


def unseal(cipher: AESGCM, sealed: bytes, *context: bytes) -> bytes:
    """Return the value that ``seal`` encrypted.

    Raises:
        PrivacyError: it was sealed with another key, moved to another place, or changed.
    """
    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], b"\0".join(context))
    except (InvalidTag, ValueError):
        raise PrivacyError(
            "Entry of the vault cannot be opened",
            where="vault",
            remedy="It was moved or changed: restore the vault from its back-up.",
        ) from None
