"""Where the tests' files lie: in memory, if there is room.

Tests commit thousands of times, and on a disk each commit waits for it. No test cuts the power: what a killed process
has written is there afterwards, in memory as on a disk.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

_MEMORY = Path("/dev/shm")
_PREFIX = "vitalake-tests-"
_ROOM = 6 << 30
"""Bytes that have to be free: all tests together leave about two gigabytes, and their processes take as many."""

_NEW_SECONDS = 60.0
"""A folder that is younger may not be locked yet."""


def use_memory() -> None:
    """Let temporary files of this process and of those that it starts lie in memory until it ends.

    They stay where they are if ``TMPDIR`` is set: who wants to look at them afterwards sets it.
    """
    if "TMPDIR" in os.environ or not _has_room():
        return
    _remove_left()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_MEMORY))
    folder.chmod(0o1777)  # as /tmp: some tests have processes of other accounts
    _locked(folder)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # so that TMPDIR is read again
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _has_room() -> bool:
    try:
        kind = os.statvfs(_MEMORY)
        available = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    free = min(kind.f_bavail * kind.f_frsize, int(available[1]) << 10 if available else 0)
    return free > _ROOM and not kind.f_flag & os.ST_NOEXEC and os.access(_MEMORY, os.W_OK)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that keeps a folder ours until we end; None if it is another's."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:  # another user's, or gone
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _remove_left() -> None:
    """Remove what test processes that were killed have left."""
    for folder in _MEMORY.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone by now
            if time.time() - folder.stat().st_ctime < _NEW_SECONDS:
                continue
        if (lock := _locked(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
