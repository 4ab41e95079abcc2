"""Whether the account that runs this process could have written the configuration itself.

A configuration says who may see whom. It counts as a word about an account only if that account cannot write it: not
the open file, not an entry of a folder or a link on the way to it. root can write every file, so no configuration says
anything about root.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from vitalake.accounts import account_name, is_owned_by

_MOST_LINKS = 40
"""As Linux has it."""


def read_guarded(path: Path, *, caller: int | None = None) -> tuple[str, str]:
    """Return a configuration's text, and why it may be the caller's own word; empty: they cannot have written it.

    Args:
        path: of the file.
        caller: id of the account; default: whoever runs this process.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    who = os.getuid() if caller is None else caller
    with path.open(encoding="utf-8") as file:
        opened = os.fstat(file.fileno())
        return file.read(), _doubt(path, opened, who)


def _doubt(path: Path, opened: os.stat_result, caller: int) -> str:
    if caller == 0:
        return "root can write it"
    if not stat.S_ISREG(opened.st_mode) or opened.st_nlink != 1:
        return f"{path} is not a file of one name"
    if doubt := _may_write(opened, caller):
        return f"{path} {doubt}"
    try:
        for folder, entry in _ways(path):
            if doubt := _may_replace(folder, entry, caller):
                return f"{folder} {doubt}"
        reached = path.stat()
    except OSError:
        return f"the way to {path} cannot be looked at"
    same = (reached.st_dev, reached.st_ino) == (opened.st_dev, opened.st_ino)
    return "" if same else f"{path} was replaced meanwhile"


def _may_write(found: os.stat_result, caller: int) -> str:
    """Return why an account may write something; an access control list shows in the bits of the group."""
    if doubt := _may_be(found.st_uid, caller):
        return doubt
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others than its owner"
    return ""


def _may_replace(folder: Path, entry: str, caller: int) -> str:
    """Return why an account may put something else in the place of a folder's entry."""
    found = folder.stat()
    if found.st_uid != caller and found.st_mode & stat.S_ISVTX:  # only owners may take away: /tmp, a shared home
        owners = (found.st_uid, (folder / entry).lstat().st_uid)
        return next((f"or its entry {doubt}" for owner in owners if (doubt := _may_be(owner, caller))), "")
    return _may_write(found, caller)


def _may_be(owner: int, caller: int) -> str:
    """Return why an owner may be the account itself: only root and other accounts of the system's list are not."""
    if is_owned_by(owner, caller):
        return "belongs to this account"
    if owner == _unmapped() or (owner != 0 and not account_name(owner)):
        return "belongs to an account that is not known here"
    return ""


def _ways(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield folder and entry of every step to a file, those of links too."""
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
    """Return the id that a file has whose owner this user namespace does not know: who makes one chooses their id."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534
