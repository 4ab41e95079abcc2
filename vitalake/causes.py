"""Says in our own words why the operating system, SQLite or delta-rs failed: their texts may hold a value."""

from __future__ import annotations

import errno
import re
import sqlite3
from typing import NamedTuple

from vitalake.errors import LakeError, ServiceUnavailable, VitaLakeError


class _Shortage(NamedTuple):
    """A resource of the machine that is used up or not available, and what a person can do about it."""

    what: str
    remedy: str


_FULL = _Shortage("Disk is full", "Free space on it; nothing is lost.")
_DESCRIPTORS = _Shortage(
    "Too many open files", "Raise the limit of open files (ulimit -n, or LimitNOFILE= in a systemd unit)."
)
_READ_ONLY = _Shortage("Disk is read-only", "Mount it writable; look in the system's log why it was not.")
_BROKEN = _Shortage("Disk fails", "Look in the system's log for its errors, and replace it.")

_SHORTAGES: dict[int, _Shortage] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _Shortage("Disk quota is used up", "Free space, or raise the account's quota; nothing is lost."),
    errno.EFBIG: _Shortage("File is longer than its limit", "Raise the limit of a file's size (ulimit -f)."),
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _Shortage(
        "Too many open files on the machine", "Raise fs.file-max, or find the process that leaves files open."
    ),
    errno.ENOMEM: _Shortage("Memory is used up", "Give the machine more memory, or run less on it at once."),
    errno.EROFS: _READ_ONLY,
    errno.EIO: _BROKEN,
}

_IO = _Shortage(
    "Disk refuses to read or write",
    "See whether it is full or a limit of a file's size (ulimit -f) is reached; else look in the system's log.",
)
"""SQLITE_IOERR: SQLite gives this code for all other failures of the system, and does not say which one it was."""

_MISPLACED: dict[int, str] = {
    errno.EISDIR: "a folder is in its place",
    errno.ENOTDIR: "a file is in its folder's place",
    errno.ELOOP: "its link leads to itself",
}
"""Something else lies where the file should be: trying again does not help."""

_CUT = "connection was cut"
_CAUSES: dict[int, str] = {
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ECONNREFUSED: "connection is refused",
    errno.ECONNRESET: _CUT,
    errno.ECONNABORTED: _CUT,
    errno.EPIPE: _CUT,
    errno.ETIMEDOUT: "time-out",
    errno.EHOSTUNREACH: "host cannot be reached",
    errno.ENETUNREACH: "network cannot be reached",
}

_SQLITE: dict[int, int] = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
    sqlite3.SQLITE_PERM: errno.EACCES,
}
"""SQLite's primary result codes that have the same meaning as an error number of the system."""

_SQLITE_CAUSES: dict[int, str] = {
    sqlite3.SQLITE_BUSY: "another process holds it locked",
    sqlite3.SQLITE_LOCKED: "another process holds it locked",
}

_RUST_ERROR = re.compile(r"\(os error (\d{1,3})\)")
"""How Rust, and so delta-rs, ends the text of an error of the operating system."""


def number_of(error: BaseException) -> int | None:
    """Return the operating system's error number, whichever library raised the error; None: it has none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, OSError) and str(error).endswith("is a directory"):  # Arrow raises this without a number
        return errno.EISDIR
    if isinstance(error, sqlite3.Error):
        return _SQLITE.get(_primary(error))
    found = _RUST_ERROR.search(str(error))
    return int(found.group(1)) if found else None


def _shortage(error: BaseException) -> _Shortage | None:
    if isinstance(error, sqlite3.Error) and _primary(error) == sqlite3.SQLITE_IOERR:
        return _IO
    return _SHORTAGES.get(number_of(error) or 0)


def _primary(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of a failure; 0: Python's sqlite3 module raised it by itself."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def cause_of(error: BaseException) -> str:
    """Return the cause of an error in words; where it is not known, the name of the error's type."""
    number, shortage = number_of(error) or 0, _shortage(error)
    if shortage is not None:
        return shortage.what[0].lower() + shortage.what[1:]
    if isinstance(error, sqlite3.Error) and (cause := _SQLITE_CAUSES.get(_primary(error))):
        return cause
    return _CAUSES.get(number) or _MISPLACED.get(number) or type(error).__name__


def unavailable(error: BaseException, what: str, *, where: str, remedy: str) -> VitaLakeError:
    """Return the error to raise for a failure of the system, SQLite or delta-rs.

    If a resource is used up, the error names the resource; else it says what failed and why. It is a
    ServiceUnavailable, so that callers try again, except where something else lies in the file's place.

    Args:
        error: as it came from the system, SQLite or delta-rs.
        what: what failed, in one clause.
        where: the name of the file or service; used in every case.
        remedy: what to do where no resource is used up.
    """
    shortage = _shortage(error)
    if shortage is not None:
        return ServiceUnavailable(shortage.what, where=where, remedy=shortage.remedy)
    if misplaced := _MISPLACED.get(number_of(error) or 0):
        return LakeError(f"{what} ({misplaced})", where=where, remedy="Move it away, and restore the file.")
    return ServiceUnavailable(f"{what} ({cause_of(error)})", where=where, remedy=remedy)
