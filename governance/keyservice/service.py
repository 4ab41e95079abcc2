"""The one interface of all key services, and the error that says a key was taken away."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from vitalake.errors import PrivacyError

State = Literal["enabled", "revoked", "destroyed"]


class KeyRevoked(PrivacyError):
    """The wrapping key was taken away; it helps to try again once it is given back."""

    transient = True


class Wrapped(msgspec.Struct, frozen=True):
    """A key that only the service can unwrap.

    Attributes:
        key_id: by which of the service's keys.
        sealed: the wrapped key; says nothing by itself.
    """

    key_id: str
    sealed: bytes


class KeyVersion(msgspec.Struct, frozen=True):
    """One of a service's wrapping keys.

    Attributes:
        key_id: its name, as in what it wrapped.
        state: whether it can be used.
        current: whether it wraps what comes.
        made_at: when it was made.
    """

    key_id: str
    state: State
    current: bool
    made_at: datetime


class KeyService(Protocol):
    """Wraps and unwraps keys; the wrapping key itself never comes out. Used by one thread at a time.

    Every method raises KeyRevoked when the key is disabled, denied or gone, and ServiceUnavailable when the service
    does not answer.

    Attributes:
        kind: as in ``settings.key_service.kind``.
    """

    kind: str

    def wrap(self, plain: bytes, *, context: bytes) -> Wrapped:
        """Return a key wrapped, bound to what it is for.

        Args:
            plain: the key.
            context: what it is for; not secret, ASCII, and needed again to unwrap.
        """
        ...

    def unwrap(self, wrapped: Wrapped, *, context: bytes) -> bytes:
        """Return the key that was wrapped.

        Raises:
            PrivacyError: it was wrapped for something else, or changed.
        """
        ...

    def status(self) -> list[KeyVersion]:
        """Return the versions there are, oldest first; never a secret."""
        ...

    def rotate(self) -> str:
        """Make a new version, which wraps from now on; return its id. KMS does that itself, and keeps its id."""
        ...

    def destroy(self, key_id: str) -> bool:
        """Destroy a version that is not current; return whether there was anything to destroy."""
        ...

    def revoke(self, key_ids: Iterable[str] = ()) -> None:
        """Take the key away from everybody, until it is restored.

        Args:
            key_ids: those which wrap something: an older one may still be among them.
        """
        ...

    def restore(self, key_ids: Iterable[str] = ()) -> None:
        """Give it back."""
        ...
