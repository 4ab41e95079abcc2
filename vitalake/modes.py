"""Who else on this machine may read what is written: nobody, by default; of what is published one group, if configured.

The group is let in by access control lists: a folder passes them on to what is made in it, whichever library makes it,
and without them a file that is made by the process' mask stays closed.
"""

from __future__ import annotations

import grp
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from vitalake.errors import SettingsError

PRIVATE = 0o077
"""Bits of group and others. As the process' mask: delta-rs, SQLite and MLflow make their files by it, not by ours."""

PUBLISHED = "published"
"""The one folder of a lake that a group may be let into."""

_ACCESS, _INHERITED = "system.posix_acl_access", "system.posix_acl_default"
_VERSION, _ENTRY = struct.pack("<I", 2), "<HHI"
_OWNER, _ITS_GROUP, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
"""Form of Linux's access control lists in extended attributes. Source: include/uapi/linux/posix_acl_xattr.h."""

READ, ENTER = 4, 1


def keep_private() -> None:
    """Let this process make files and folders that only its account can read, whatever mask it was started with."""
    os.umask(PRIVATE)


def group_id(name: str) -> int:
    """Return the id of a group of this machine.

    Raises:
        SettingsError: there is none of this name.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingsError(
            "Group is not known on this machine", where="lake.readers", remedy="Make it, or name another one."
        ) from None


def wider(home: Path, lake: Path | None, *, readers: int | None = None) -> list[Path]:
    """Return what other accounts may do more with than they should; of a folder that is closed nothing is looked at.

    Args:
        home: the home.
        lake: the lake, if it is a folder.
        readers: id of the group that may read what is published.
    """
    return [path for root in _roots(home, lake) for path in _reachable(root, lake, readers)]


def unreadable(lake: Path | None, readers: int) -> list[Path]:
    """Return published folders and files that the group may not read although it should; the first one is enough."""
    published = lake / PUBLISHED if lake else None
    if lake is None or published is None or not published.is_dir():
        return []
    if _wanted(lake, lake, readers) != _found(lake, _ACCESS):
        return [lake]
    for path in _all(published):
        if _found(path, _ACCESS) != _wanted(path, lake, readers):
            return [path]
    return []


def apply(home: Path, lake: Path | None, *, readers: int | None = None) -> int:
    """Close home and lake to other accounts, and open what is published to the group; return how many were changed.

    Raises:
        SettingsError: a file belongs to somebody else, or its file system knows no access control lists.
    """
    changed = 0
    for root in _roots(home, lake):
        for path in _all(root):
            try:
                changed += _set(path, lake, readers)
            except FileNotFoundError:  # taken away meanwhile, as streams do
                continue
            except OSError as error:
                raise SettingsError(
                    f"Permissions cannot be changed ({error.strerror})",
                    where=str(path),
                    remedy="Run it as its owner; readers need a file system with access control lists.",
                ) from None
    return changed


def _roots(home: Path, lake: Path | None) -> list[Path]:
    apart = lake is not None and home != lake and home not in lake.parents
    return [root for root in (home, lake if apart else None) if root is not None and root.exists()]


def _all(root: Path) -> Iterator[Path]:
    """Yield a folder and all below it; links are not followed."""
    yield root
    for folder, folders, files in os.walk(root):
        yield from (Path(folder) / name for name in (*folders, *files) if not (Path(folder) / name).is_symlink())


def _reachable(root: Path, lake: Path | None, readers: int | None) -> Iterator[Path]:
    pending = [root]
    while pending:
        path = pending.pop()
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & PRIVATE & ~_allowed(path, lake, readers):
                yield path
            elif path.is_dir() and not path.is_symlink() and mode & 0o011:
                pending += sorted(path.iterdir(), reverse=True)
        except FileNotFoundError:
            continue


def _rights(path: Path, lake: Path | None, readers: int | None) -> int:
    """Return what the group of readers may do with a path."""
    if readers is None or lake is None:
        return 0
    published = lake / PUBLISHED
    if path == published or published in path.parents:
        return READ | ENTER if path.is_dir() else READ
    return ENTER if path == lake or path in lake.parents else 0


def _allowed(path: Path, lake: Path | None, readers: int | None) -> int:
    return _rights(path, lake, readers) << 3


def _wanted(path: Path, lake: Path | None, readers: int | None) -> bytes:
    """Return the access control list of a path; empty: none."""
    rights = _rights(path, lake, readers)
    if not rights or readers is None:
        return b""
    owner = 7 if path.is_dir() else 6
    entries = [(_OWNER, owner, _NOBODY), (_ITS_GROUP, 0, _NOBODY), (_GROUP, rights, readers), (_MASK, rights, _NOBODY)]
    return _VERSION + b"".join(struct.pack(_ENTRY, *entry) for entry in [*entries, (_OTHERS, 0, _NOBODY)])


def _found(path: Path, name: str) -> bytes:
    """Return the list that a path has; one that the mask shortens is told by its mask."""
    try:
        return os.getxattr(path, name)
    except OSError:  # none, or none can be had
        return b""


def _set(path: Path, lake: Path | None, readers: int | None) -> bool:
    """Give a path its mode and list; return whether they were others."""
    wanted = _wanted(path, lake, readers)
    inherited = wanted if wanted and path.is_dir() and _rights(path, lake, readers) & READ else b""
    mode = stat.S_IMODE(path.lstat().st_mode)
    before = mode, _found(path, _ACCESS), _found(path, _INHERITED)
    if not wanted and mode & PRIVATE:
        path.chmod(mode & ~PRIVATE)
    for name, had, new in ((_ACCESS, before[1], wanted), (_INHERITED, before[2], inherited)):
        if new and new != had:
            os.setxattr(path, name, new)
        elif had and not new:
            os.removexattr(path, name)
    return before != (stat.S_IMODE(path.lstat().st_mode), wanted, inherited)
