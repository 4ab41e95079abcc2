"""One thread for each thing that must not be shared, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from vitalake.errors import ServiceUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class OneThread:
    """Runs calls one after the other, in the order in which they come."""

    def __init__(self, name: str, *, most: int = 0) -> None:
        """Prepare.

        Args:
            name: of the thread.
            most: calls that may wait for requests, see ``request``; 0: any number.
        """
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._name, self._most, self._waiting = name, most, 0

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call returns."""
        future = self._pool.submit(function, *args, **kwargs)
        return await asyncio.wrap_future(future)

    async def request(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call for a request returns; one too many is turned away at once instead of after minutes.

        Raises:
            ServiceUnavailable: so many wait that this one would wait too long.
        """
        if self._most and self._waiting >= self._most:
            raise ServiceUnavailable(
                "Too many requests wait", where=f"serving, {self._name}", remedy="Ask less often, or later."
            )
        self._waiting += 1
        try:
            return await self(function, *args, **kwargs)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Wait for what runs; no more is taken."""
        self._pool.shutdown()
