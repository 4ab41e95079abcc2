"""Time-outs for calls into a database driver, which would wait for ever for a server that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from vitalake.errors import ServiceUnavailable

_T = TypeVar("_T")


class Silent(ServiceUnavailable):
    """The server has not answered. The call still waits in its thread: do not use or close its connection."""


def answered(call: Callable[[], _T], *, seconds: float | None, where: str) -> _T:
    """Make a call and return its result, unless it takes too long.

    Args:
        call: made in a thread of its own, which ends with the process.
        seconds: how long to wait; None: for ever, and the call is made in this thread.
        where: the server's name, for the error.

    Raises:
        Silent: there was no answer in time.
        Exception: what the call raises.
    """
    if seconds is None:
        return call()
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="warehouse", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Silent(
            f"Warehouse has not answered for {seconds:g} seconds",
            where=where,
            remedy="Check on the server what the query waits for. If it only needs longer before its next rows, raise "
            "silence_seconds in the job file.",
        )
    if errors:
        raise errors[0]
    return results[0]
