"""The folder for files of object storage while a query reads them; each query deletes what killed ones have left."""

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
"""Door was the name of the query service; folders that an earlier release has left have it too."""


@contextmanager
def fetch_folder() -> Iterator[Path]:
    """Yield an empty folder, deleted at the end; first delete the folders of processes that were killed."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name, folder_lock(Path(name)):
        yield Path(name)


def _sweep(folder: Path) -> None:
    """Delete the folders that no process has locked, but no empty one: its process may be about to lock it."""
    for leftover in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # locked, gone by now, or owned by another account
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(leftover.iterdir()):
                    shutil.rmtree(leftover)
            finally:
                os.close(descriptor)
