"""The interface of all key services, and the error of a revoked key."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from vitalake.errors import PrivacyError

State = Literal["enabled", "revoked", "destroyed"]


class KeyRevoked(PrivacyError):
    """The wrapping key is revoked; the same call succeeds once it is enabled again."""

    transient = True


class Wrapped(msgspec.Struct, frozen=True):
    """A key that only the service can unwrap.

    Attributes:
        key_id: the key of the service that wraps it.
        sealed: the wrapped key, unreadable without the service.
    """

    key_id: str
    sealed: bytes


class KeyVersion(msgspec.Struct, frozen=True):
    """One of a service's wrapping keys.

    Attributes:
        key_id: its name, as in Wrapped.
        state: whether it can be used.
        current: whether it wraps new keys.
        made_at: when it was made.
    """

    key_id: str
    state: State
    current: bool
    made_at: datetime


class KeyService(Protocol):
    """Wraps and unwraps keys without revealing the wrapping key. Used by one thread at a time.

    Every method raises KeyRevoked when the key is disabled, denied or gone, and ServiceUnavailable when the service
    does not answer.

    Attributes:
        kind: as in ``settings.key_service.kind``.
    """

    kind: str

    def wrap(self, plain: bytes, *, context: bytes) -> Wrapped:
        """Wrap a key, bound to its purpose.

        Args:
            plain: the key.
            context: its purpose: ASCII, not secret, and needed again to unwrap.
        """
        ...

    def unwrap(self, wrapped: Wrapped, *, context: bytes) -> bytes:
        """Return the key that was wrapped.

        Raises:
            PrivacyError: it was wrapped for another purpose, or changed.
        """
        ...

    def status(self) -> list[KeyVersion]:
        """Return all versions, oldest first; never a secret."""
        ...

    def rotate(self) -> str:
        """Make a new version, which wraps from now on; return its id. KMS makes its versions itself, under one id."""
        ...

    def destroy(self, key_id: str) -> bool:
        """Destroy a version that is not current; return whether something was destroyed."""
        ...

    def revoke(self, key_ids: Iterable[str] = ()) -> None:
        """Revoke the key for everybody, until ``restore``.

        Args:
            key_ids: the keys that still wrap something, older ones included.
        """
        ...

    def restore(self, key_ids: Iterable[str] = ()) -> None:
        """Enable the key again."""
        ...
