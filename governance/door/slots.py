"""So many queries at once, in all processes of a home: each may take a gigabyte, and the others wait their turn."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitalake.errors import ServiceUnavailable

_LOOK_SECONDS = 0.05


@contextmanager
def slot(folder: Path, *, workers: int, seconds: float, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold one of the places; wait for one if all are taken.

    Args:
        folder: where the places are files; made if missing. The system frees the place of a process that was killed.
        workers: how many places there are.
        seconds: to wait at the most.
        waiting: told once that it waits.

    Raises:
        ServiceUnavailable: none became free, or the folder cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = _wait(folder, workers, seconds, waiting)
    except OSError as error:
        raise ServiceUnavailable(
            f"Queries cannot be counted ({error.strerror})",
            where=folder.name,
            remedy="Check its disk and permissions.",
        ) from None
    try:
        yield
    finally:
        os.close(held)


def _wait(folder: Path, workers: int, seconds: float, waiting: Callable[[], None]) -> int:
    until, told = time.monotonic() + seconds, False
    while True:
        for number in range(workers):
            descriptor = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return descriptor
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
