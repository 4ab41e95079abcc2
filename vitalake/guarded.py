"""Finds out whether the account that runs this process could have written the configuration itself.

A configuration says which account may see which data. It counts for an account only if that account cannot change it:
neither the open file, nor an entry of a folder or a link on the way to it. root can write every file, so a
configuration never counts for root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from vitalake.accounts import account_name, is_owned_by

_MOST_LINKS = 40
"""The limit that Linux has, MAXSYMLINKS."""


MOST_BYTES = 1 << 20
"""The largest file that is read: nobody writes so much by hand, and every command reads all of it."""


def read_regular(path: Path) -> str:
    """Return the text of a regular file of at most ``MOST_BYTES``.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger; ``strerror`` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[str, os.stat_result]:
    # Opened without waiting: a pipe without a writer would never answer, and a terminal would become this process's.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        with open(opened, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(opened)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, "it is larger than 1 MiB", str(path))
    return content.decode().replace("\r\n", "\n").replace("\r", "\n"), found


def read_guarded(path: Path, *, caller: int | None = None) -> tuple[str, str]:
    """Return a configuration's text, and why the caller could have written it; empty: the caller could not.

    Args:
        path: path of the file.
        caller: id of the account; default: the account that runs this process.

    Raises:
        OSError, UnicodeDecodeError: as ``read_regular``.
    """
    who = os.getuid() if caller is None else caller
    text, opened = _read(path)
    return text, _doubt(path, opened, who)


def _doubt(path: Path, opened: os.stat_result, caller: int) -> str:
    """Return why an account could have written an open file; empty: it could not."""
    if caller == 0:
        return "root can write it"
    if not stat.S_ISREG(opened.st_mode) or opened.st_nlink != 1:
        return f"{path} is not a regular file with one name"
    if doubt := _may_write(opened, caller):
        return f"{path} {doubt}"
    try:
        for folder, entry in _path_steps(path):
            if doubt := _may_replace(folder, entry, caller):
                return f"{folder} {doubt}"
        reached = path.stat()
    except OSError:
        return f"the folders on the way to {path} cannot be read"
    same = (reached.st_dev, reached.st_ino) == (opened.st_dev, opened.st_ino)
    return "" if same else f"{path} was replaced meanwhile"


def _may_write(found: os.stat_result, caller: int) -> str:
    """Return why an account may write a file or folder; empty: it may not.

    An access control list that lets others write shows in the permission bits of the group.
    """
    if doubt := _may_be_caller(found.st_uid, caller):
        return doubt
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others than its owner"
    return ""


def _may_replace(folder: Path, entry: str, caller: int) -> str:
    """Return why an account may replace an entry of a folder; empty: it may not."""
    found = folder.stat()
    if found.st_uid != caller and found.st_mode & stat.S_ISVTX:  # sticky, like /tmp: only owners may remove entries
        owners = (found.st_uid, (folder / entry).lstat().st_uid)
        return next((f"or its entry {doubt}" for owner in owners if (doubt := _may_be_caller(owner, caller))), "")
    return _may_write(found, caller)


def _may_be_caller(owner: int, caller: int) -> str:
    """Return why an owner may be the account itself; empty: it is root, or another account of the system's list."""
    if is_owned_by(owner, caller):
        return "belongs to this account"
    if owner == _unmapped() or (owner != 0 and not account_name(owner)):
        return "belongs to an account that is not known here"
    return ""


def _path_steps(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield folder and entry of each step of a path, and of the links on it."""
    folder, steps, links = Path("/"), deque(path.absolute().parts[1:]), 0
    while steps:
        step = steps.popleft()
        if step == "..":
            folder = folder.parent
            continue
        yield folder, step
        place = folder / step
        if not place.is_symlink():
            folder = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError
        target = place.readlink()
        steps.extendleft(reversed(target.parts[target.is_absolute() :]))
        folder = Path("/") if target.is_absolute() else folder


def _unmapped() -> int:
    """Return the id that the kernel shows for owners that this user namespace does not map."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534
