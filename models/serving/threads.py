"""A thread of its own for each object that must not be shared, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from vitalake.errors import ServiceUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class OneThread:
    """Runs calls one after the other in one thread, in the order in which they arrive."""

    def __init__(self, name: str, *, most: int = 0) -> None:
        """Prepare.

        Args:
            name: of the thread.
            most: how many calls of ``request`` may wait or run; 0: no limit.
        """
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._name, self._most, self._waiting = name, most, 0

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in the thread and return its result."""
        future = self._pool.submit(function, *args, **kwargs)
        return await asyncio.wrap_future(future)

    async def request(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call for a request and return its result; refuse it at once if too many are waiting.

        Raises:
            ServiceUnavailable: too many calls are waiting.
        """
        if self._most and self._waiting >= self._most:
            raise ServiceUnavailable(
                "Too many requests are waiting",
                where=f"serving, {self._name}",
                remedy="Send fewer requests, or try again later.",
            )
        self._waiting += 1
        try:
            return await self(function, *args, **kwargs)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Finish the calls that were taken, and take no more."""
        self._pool.shutdown()
