"""Finds the account of this machine that runs this process, also from within a user namespace.

Anybody can make a user namespace and choose their id in it (``unshare --map-user``). Therefore the id outside of the
namespace counts. Inside, the system's list of accounts says nothing about that id, so no name is looked up: the
account of a process in a rootless container is called ``mapped-uid-<id outside>``.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAP = Path("/proc/self/uid_map")
_SUBORDINATE = Path("/etc/subuid")

NOBODY = -1
"""Stands for an id that is not known; no account has it."""

_EVERYBODY = [(0, 0, 0xFFFFFFFF)]
"""The uid_map of a process outside of all user namespaces. Making another one this large needs a privilege."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account that runs a process.

    Attributes:
        number: id outside of the user namespace of the process; NOBODY: it is not known.
        name: as the audit records it.
        mapped: whether the process is in a user namespace: then the system's list of accounts is not asked.
    """

    number: int
    name: str
    mapped: bool


def account() -> Account:
    """Return the account that runs this process, as the kernel reports it. Two names for one id are one account."""
    number, ranges = os.getuid(), _ranges()
    if ranges == _EVERYBODY:
        return Account(number, account_name(number) or f"uid-{number}", mapped=False)
    outside = _outside(number, ranges)
    return Account(outside, f"mapped-uid-{'unknown' if outside == NOBODY else outside}", mapped=True)


def account_name(number: int) -> str:
    """Return the name of an id in the system's list of accounts; empty: it has no entry, as in some containers."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def is_owned_by(owner: int, caller: int) -> bool:
    """Return whether an account may own a file: the owner is its own id, or one that /etc/subuid assigns to it.

    Args:
        owner: id of the file's owner, as ``stat`` gives it to this process.
        caller: id of the account, as this process sees it.
    """
    ranges = _ranges()
    owner, caller = _outside(owner, ranges), _outside(caller, ranges)
    return owner == caller or any(owner in ids for ids in _subordinate_ids(caller))


def _ranges() -> list[tuple[int, int, int]]:
    """Return the map of this process' user namespace as ranges: first id inside, first id outside, how many."""
    try:
        lines = _MAP.read_text().splitlines()
    except OSError:
        return []
    return [(int(inside), int(outside), int(count)) for inside, outside, count in map(str.split, lines)]


def _outside(number: int, ranges: list[tuple[int, int, int]]) -> int:
    """Return the id that an id of this user namespace is outside of it."""
    for inside, outside, count in ranges:
        if inside <= number < inside + count:
            return outside + number - inside
    return NOBODY


def _subordinate_ids(number: int) -> Iterator[range]:
    """Yield the ranges of ids that /etc/subuid assigns to an account, for user namespaces that it makes."""
    try:
        lines = _SUBORDINATE.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        who, *counts = line.split(":")
        if who and who in (account_name(number), str(number)) and len(counts) == 2 and all(map(str.isdigit, counts)):
            yield range(int(counts[0]), int(counts[0]) + int(counts[1]))
