"""Where files of object storage lie while a query reads them; what a killed query has left there goes with the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitalake.folders import folder_lock

_PREFIX = "vitalake-door-"


@contextmanager
def fetch_folder() -> Iterator[Path]:
    """Give an empty folder of this process, deleted at the end, and delete those of processes that were killed."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name, folder_lock(Path(name)):
        yield Path(name)


def _sweep(folder: Path) -> None:
    """Delete the folders that no process holds; one that is empty may be held in a moment, and holds nothing."""
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is held, gone by now, or another account's
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(left.iterdir()):
                    shutil.rmtree(left)
            finally:
                os.close(descriptor)
