"""Limits how many queries run at once, in all processes of a home: each may take a gigabyte, so the others wait.

A slot is a name in the kernel (an abstract Unix socket), which only one process of a machine can hold, whatever account
it runs as. Lock files in the home would not do: every account that asks a query would have to write them, and a home
that says who is a privacy officer must not be writable by these accounts.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitalake.errors import ServiceUnavailable

_POLL_SECONDS = 0.05


@contextmanager
def slot(home: Path, *, workers: int, seconds: float, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a query slot while the context is open; wait for one if all are in use.

    The system frees the slot of a process that was killed.

    Args:
        home: the home that the slots belong to, whichever path leads to it.
        workers: how many slots there are.
        seconds: how long to wait at most.
        waiting: called once if there is no free slot at first.

    Raises:
        ServiceUnavailable: no slot became free, or the system does not let this process make sockets.
    """
    try:
        status = home.stat()
        held = _wait(f"\0vitalake-query-{status.st_dev}-{status.st_ino}", workers, seconds, waiting)
    except OSError as error:
        raise ServiceUnavailable(
            f"Running queries cannot be counted ({error.strerror})",
            where="settings.queries",
            remedy="Check that the home is there, and that this process may create Unix sockets.",
        ) from None
    with held:
        yield


def _wait(prefix: str, workers: int, seconds: float, waiting: Callable[[], None]) -> socket.socket:
    until, reported = time.monotonic() + seconds, False
    while True:
        for number in range(workers):
            if (held := _bind(f"{prefix}-{number}")) is not None:
                return held
        if time.monotonic() >= until:
            raise ServiceUnavailable(
                f"No query slot is free: at most {workers} queries run at once",
                where="settings.queries.workers",
                remedy="Try again later, raise queries.wait_seconds, or raise queries.workers if there is memory.",
            )
        if not reported:
            reported = True
            waiting()
        time.sleep(_POLL_SECONDS)


def _bind(name: str) -> socket.socket | None:
    """Return a socket that holds a name; None: another process holds it. Child processes do not inherit it."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(name)
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return held
