"""Restricts a process by Linux's Landlock: it can read the files it was given, and open no other.

Source: https://docs.kernel.org/userspace-api/landlock.html. The numbers below are from the kernel's header; they are
the same on every architecture that Python runs on.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE = 1 << 2
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""ABI version → all rights over files that it knows: reading, writing, executing, listing, making, removing …"""

_BIND_AND_CONNECT = 0b11
_SOCKETS_AND_SIGNALS = 0b11
_TCP_SINCE, _SCOPES_SINCE = 4, 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def restrict(paths: Sequence[str], libc: Any) -> bool:
    """Restrict this thread, and those it starts, for good: they can read these files and open no other.

    Args:
        paths: of files, or of folders with all files below; those that are gone are left out.
        libc: the C library; ``no_new_privs`` must be set already.

    Returns:
        Whether the restriction is in force; False on a kernel without Landlock (before 5.13, or turned off).
    """
    version = libc.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        return False
    known = max(number for number in _FILE_RIGHTS if number <= version)
    rules = _Ruleset(_FILE_RIGHTS[known])
    rules.network = _BIND_AND_CONNECT if version >= _TCP_SINCE else 0
    rules.scoped = _SOCKETS_AND_SIGNALS if version >= _SCOPES_SINCE else 0
    size = 24 if version >= _SCOPES_SINCE else 16 if version >= _TCP_SINCE else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    for path in paths:
        try:
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        beneath = _Beneath(_READ_FILE, file)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(beneath), 0)
        os.close(file)
    held = libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return held
