"""Permissions of files: other accounts may read nothing; one group may read published data, if it is configured.

The group gets its rights by access control lists. A folder passes them on to the files in it, whichever library makes
those. Files outside of such folders get the process' mask, which keeps them private.
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
"""Permission bits of group and others. Set as the process' umask, because delta-rs, SQLite and MLflow make their files
without asking us for a mode."""

PUBLISHED = "published"
"""The only folder of a lake that a group may be allowed to read."""

_ACCESS, _INHERITED = "system.posix_acl_access", "system.posix_acl_default"
_VERSION, _ENTRY = struct.pack("<I", 2), "<HHI"
_OWNER, _ITS_GROUP, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
"""Binary form of Linux's access control lists in extended attributes: include/uapi/linux/posix_acl_xattr.h."""

READ, ENTER = 4, 1


def keep_private() -> None:
    """Set the umask, so that only this account can read the files and folders that this process makes."""
    os.umask(PRIVATE)


def group_id(name: str) -> int:
    """Return the id of a group of this machine.

    Raises:
        SettingsError: there is no group of this name.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingsError(
            "Group does not exist on this machine", where="lake.readers", remedy="Create it, or name another one."
        ) from None


def too_open(home: Path, lake: Path | None, *, readers: int | None = None) -> list[Path]:
    """Return the files and folders where other accounts have more rights than they should.

    A folder that others cannot enter is not searched: what is in it is out of their reach.

    Args:
        home: folder of the home.
        lake: folder of the lake; None: it is not a folder.
        readers: id of the group that may read published data; None: no group may.
    """
    return [path for root in _roots(home, lake) for path in _reachable(root, lake, readers)]


def unreadable(lake: Path | None, readers: int) -> list[Path]:
    """Return the first published folder or file that the group should be able to read and cannot; empty: none."""
    published = lake / PUBLISHED if lake else None
    if lake is None or published is None or not published.is_dir():
        return []
    if _expected_acl(lake, lake, readers) != _read_acl(lake, _ACCESS):
        return [lake]
    for path in _walk(published):
        if _read_acl(path, _ACCESS) != _expected_acl(path, lake, readers):
            return [path]
    return []


def apply(home: Path, lake: Path | None, *, readers: int | None = None) -> int:
    """Close home and lake to other accounts, and open published data to the group; return how many paths were changed.

    Raises:
        SettingsError: a file belongs to another account, or its file system has no access control lists.
    """
    changed = 0
    for root in _roots(home, lake):
        for path in _walk(root):
            try:
                changed += _set_rights(path, lake, readers)
            except FileNotFoundError:  # a running stream has removed it meanwhile
                continue
            except OSError as error:
                raise SettingsError(
                    f"Permissions cannot be changed ({error.strerror})",
                    where=str(path),
                    remedy="Run this command as the owner of the file; lake.readers needs a file system with access "
                    "control lists.",
                ) from None
    return changed


def _roots(home: Path, lake: Path | None) -> list[Path]:
    """Return the folders to search: the home, and the lake if it is outside of the home."""
    apart = lake is not None and home != lake and home not in lake.parents
    return [root for root in (home, lake if apart else None) if root is not None and root.exists()]


def _walk(root: Path) -> Iterator[Path]:
    """Yield a folder and everything below it, except links."""
    yield root
    for folder, folders, files in os.walk(root):
        yield from (Path(folder) / name for name in (*folders, *files) if not (Path(folder) / name).is_symlink())


def _reachable(root: Path, lake: Path | None, readers: int | None) -> Iterator[Path]:
    """Yield the paths that other accounts can reach, and where they have more rights than they should."""
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
    """Return the rights of the group of readers on a path, as bits of READ and ENTER."""
    if readers is None or lake is None:
        return 0
    published = lake / PUBLISHED
    if path == published or published in path.parents:
        return READ | ENTER if path.is_dir() else READ
    return ENTER if path == lake or path in lake.parents else 0


def _allowed(path: Path, lake: Path | None, readers: int | None) -> int:
    """Return the permission bits that group and others may have on a path."""
    return _rights(path, lake, readers) << 3


def _expected_acl(path: Path, lake: Path | None, readers: int | None) -> bytes:
    """Return the access control list that a path should have; empty: none."""
    rights = _rights(path, lake, readers)
    if not rights or readers is None:
        return b""
    owner = 7 if path.is_dir() else 6
    entries = [(_OWNER, owner, _NOBODY), (_ITS_GROUP, 0, _NOBODY), (_GROUP, rights, readers), (_MASK, rights, _NOBODY)]
    return _VERSION + b"".join(struct.pack(_ENTRY, *entry) for entry in [*entries, (_OTHERS, 0, _NOBODY)])


def _read_acl(path: Path, name: str) -> bytes:
    """Return the access control list that a path has; empty: none, or its file system has no lists."""
    try:
        return os.getxattr(path, name)
    except OSError:
        return b""


def _set_rights(path: Path, lake: Path | None, readers: int | None) -> bool:
    """Give a path its mode and access control list; return whether that changed anything."""
    wanted = _expected_acl(path, lake, readers)
    inherited = wanted if wanted and path.is_dir() and _rights(path, lake, readers) & READ else b""
    mode = stat.S_IMODE(path.lstat().st_mode)
    before = mode, _read_acl(path, _ACCESS), _read_acl(path, _INHERITED)
    if not wanted and mode & PRIVATE:
        path.chmod(mode & ~PRIVATE)
    for name, had, new in ((_ACCESS, before[1], wanted), (_INHERITED, before[2], inherited)):
        if new and new != had:
            os.setxattr(path, name, new)
        elif had and not new:
            os.removexattr(path, name)
    return before != (stat.S_IMODE(path.lstat().st_mode), wanted, inherited)
