"""So many queries at once, in all processes of a home: each may take a gigabyte, and the others wait their turn.

A place is a name in the kernel (an abstract socket), which one process at a time has on a machine, whatever account it
runs as. Files in the home would have to be written by every account that asks, and a home that vouches for accounts is
one that they cannot write.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitalake.errors import ServiceUnavailable

_LOOK_SECONDS = 0.05


@contextmanager
def slot(home: Path, *, workers: int, seconds: float, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold one of the places; wait for one if all are taken.

    Args:
        home: whose places these are, by whichever path it is reached. The system frees the place of a process that was
            killed.
        workers: how many places there are.
        seconds: to wait at the most.
        waiting: told once that it waits.

    Raises:
        ServiceUnavailable: none became free, or the system refuses to count.
    """
    try:
        found = home.stat()
        held = _wait(f"\0vitalake-query-{found.st_dev}-{found.st_ino}", workers, seconds, waiting)
    except OSError as error:
        raise ServiceUnavailable(
            f"Queries cannot be counted ({error.strerror})",
            where="settings.queries",
            remedy="Check that the home is there, and which sockets the process may make.",
        ) from None
    with held:
        yield


def _wait(place: str, workers: int, seconds: float, waiting: Callable[[], None]) -> socket.socket:
    until, told = time.monotonic() + seconds, False
    while True:
        for number in range(workers):
            if (held := _taken(f"{place}-{number}")) is not None:
                return held
        if time.monotonic() >= until:
            raise ServiceUnavailable(
                f"{workers} queries run, as many as may at once",
                where="settings.queries.workers",
                remedy="Try again later, wait longer (queries.wait_seconds), or give it more memory and workers.",
            )
        if not told:
            told = True
            waiting()
        time.sleep(_LOOK_SECONDS)


def _taken(name: str) -> socket.socket | None:
    """Return what holds a name; None: somebody else has it. A child does not inherit it."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(name)
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return held
