"""A move from one key service to another: the new one wraps, and the former one unwraps until the next rotation."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from governance.keyservice.service import KeyService, KeyVersion, Wrapped

_LOCAL = "local/"


class MovingKeyService:
    """Two services used as one; after ``vitalake keys rotate``, the former one is no longer needed."""

    def __init__(self, now: KeyService, former: KeyService) -> None:
        self.kind, self._now, self._former = now.kind, now, former

    def wrap(self, plain: bytes, *, context: bytes) -> Wrapped:
        """Return a key wrapped by the new service."""
        return self._now.wrap(plain, context=context)

    def unwrap(self, wrapped: Wrapped, *, context: bytes) -> bytes:
        """Unwrap the key with the service that wrapped it."""
        return self._of(wrapped.key_id).unwrap(wrapped, context=context)

    def status(self) -> list[KeyVersion]:
        """Return the versions of both; none of the former's is current."""
        former = [msgspec.structs.replace(version, current=False) for version in self._former.status()]
        return [*former, *self._now.status()]

    def rotate(self) -> str:
        """Make a version of the new service."""
        return self._now.rotate()

    def destroy(self, key_id: str) -> bool:
        """Destroy a version of the new service; the operator of the former service deletes its keys there."""
        service = self._of(key_id)
        return service is self._now and service.destroy(key_id)

    def revoke(self, key_ids: Iterable[str] = ()) -> None:
        """Revoke the keys of the new service, and of the former one if it still wraps something."""
        for service, ids in self._split(key_ids):
            service.revoke(ids)

    def restore(self, key_ids: Iterable[str] = ()) -> None:
        """Enable both again."""
        for service, ids in self._split(key_ids):
            service.restore(ids)

    def _of(self, key_id: str) -> KeyService:
        return self._now if key_id.startswith(_LOCAL) == (self._now.kind == "local") else self._former

    def _split(self, key_ids: Iterable[str]) -> list[tuple[KeyService, list[str]]]:
        ids = list(key_ids)
        former = [key_id for key_id in ids if self._of(key_id) is self._former]
        now = (self._now, [key_id for key_id in ids if key_id not in former])
        return [now, (self._former, former)] if former else [now]
