"""What the operating system, SQLite and delta-rs say when they fail, in our words: their text may hold a value."""

from __future__ import annotations

import errno
import re
import sqlite3
from typing import NamedTuple

from vitalake.errors import ServiceUnavailable


class _Shortage(NamedTuple):
    """A resource of the machine that is used up or taken away, and what a person does about it."""

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
    errno.ENFILE: _Shortage("Too many open files on the machine", "Raise fs.file-max, or find who leaves files open."),
    errno.ENOMEM: _Shortage("Memory is used up", "Give the machine more, or let it do less at once."),
    errno.EROFS: _READ_ONLY,
    errno.EIO: _BROKEN,
}

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
"""SQLite's primary result codes that say what the system said."""

_RUST_ERROR = re.compile(r"\(os error (\d{1,3})\)")
"""How Rust, and so delta-rs, ends the text of an error of the operating system."""


def number_of(error: BaseException) -> int | None:
    """Return the operating system's number of an error, whoever raised it; None: it is no such error."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, sqlite3.Error):
        return _SQLITE.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
    found = _RUST_ERROR.search(str(error))
    return int(found.group(1)) if found else None


def cause_of(error: BaseException) -> str:
    """Return why, in words where the system's number is known; else the error's type."""
    number = number_of(error) or 0
    shortage = _SHORTAGES.get(number)
    if shortage is not None:
        return shortage.what[0].lower() + shortage.what[1:]
    return _CAUSES.get(number, type(error).__name__)


def unavailable(error: BaseException, what: str, *, where: str, remedy: str) -> ServiceUnavailable:
    """Return what to say of a failure: the resource that is used up where one is, else what met it.

    Args:
        error: as it came from the system, SQLite or delta-rs.
        what: what failed, in one clause.
        where: its name; given in both cases.
        remedy: what to do where no resource is to blame.
    """
    shortage = _SHORTAGES.get(number_of(error) or 0)
    if shortage is not None:
        return ServiceUnavailable(shortage.what, where=where, remedy=shortage.remedy)
    return ServiceUnavailable(f"{what} ({cause_of(error)})", where=where, remedy=remedy)
