"""Which account of this machine runs this process, also from within a user namespace.

Anybody can make a user namespace in which they have whatever id they like (``unshare --map-user``). What counts is
therefore the id outside of it. Inside, the system's list of accounts says nothing about an id, so its name is not
looked up there: a process in a rootless container is ``mapped-uid-<id outside>``.
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
"""Not an id."""

_EVERYBODY = [(0, 0, 0xFFFFFFFF)]
"""The map outside of all user namespaces. Nobody without a privilege makes one that maps as many."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs a process.

    Attributes:
        number: id outside of the process' user namespace; NOBODY: it cannot be known.
        name: as the audit has it.
        mapped: whether the process is in a user namespace, so that the account is no entry of the system's list.
    """

    number: int
    name: str
    mapped: bool


def account() -> Account:
    """Return who runs this process, by the kernel's word. Two accounts of one id are one account."""
    number, ranges = os.getuid(), _ranges()
    if ranges == _EVERYBODY:
        return Account(number, account_name(number) or f"uid-{number}", mapped=False)
    outside = _outside(number, ranges)
    return Account(outside, f"mapped-uid-{'unknown' if outside == NOBODY else outside}", mapped=True)


def account_name(number: int) -> str:
    """Return what the system's list calls an id; empty: it has no entry, as in some containers."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def is_owned_by(owner: int, caller: int) -> bool:
    """Return whether files of an id may be of the account of another one: the same, or lent to it by /etc/subuid.

    Args:
        owner: as ``stat`` gives it to this process.
        caller: as this process has it.
    """
    ranges = _ranges()
    owner, caller = _outside(owner, ranges), _outside(caller, ranges)
    return owner == caller or any(owner in lent for lent in _lent(caller))


def _ranges() -> list[tuple[int, int, int]]:
    """Return what ids of this process' user namespace are outside: first one inside, first outside, how many."""
    try:
        lines = _MAP.read_text().splitlines()
    except OSError:
        return []
    return [(int(inside), int(outside), int(count)) for inside, outside, count in map(str.split, lines)]


def _outside(number: int, ranges: list[tuple[int, int, int]]) -> int:
    for inside, outside, count in ranges:
        if inside <= number < inside + count:
            return outside + number - inside
    return NOBODY


def _lent(number: int) -> Iterator[range]:
    """Yield the ids that an account may use as its own in user namespaces that it makes."""
    try:
        lines = _SUBORDINATE.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        who, *counts = line.split(":")
        if who and who in (account_name(number), str(number)) and len(counts) == 2 and all(map(str.isdigit, counts)):
            yield range(int(counts[0]), int(counts[0]) + int(counts[1]))
