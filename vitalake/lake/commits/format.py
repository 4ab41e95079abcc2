"""The number of the lake's format: a small file in the lake that every writer and reader looks at before anything else.

It counts up when what lies in a lake changes so that releases before or after must know. ``format.json`` says it; a
lake that has spans and no such file was made before there was a number, and has format 0. A reader takes every format
up to its own. A writer takes its own only: rows of two formats side by side would mean different things. What makes a
lake of an earlier format one of this one is in ``pipelines/republish/upgrade.py``.
"""

from __future__ import annotations

import msgspec

from vitalake.errors import LakeError
from vitalake.lake.tables.storage import Storage

FORMAT = 1
"""1: published positions are tokens, and published rows are in no order."""

NAME = "format.json"

UPGRADE = "vitalake lake upgrade"


class Format(msgspec.Struct, frozen=True):
    """What the file says.

    Attributes:
        format: of what lies in the lake.
        upgrading: the format that an upgrade is making, while it is under way; else 0. Releases that do not know it
            are kept out from its beginning on.
        done: steps of that upgrade that are done.
    """

    format: int
    upgrading: int = 0
    done: tuple[str, ...] = ()


def read_format(lake: Storage) -> Format:
    """Return a lake's format; of one that is still to be made this release's.

    Raises:
        LakeError: the file cannot be read as one.
        OSError: storage cannot be reached.
    """
    content = lake.read_small(NAME)
    if content is None:
        if not lake.holds_table("spans"):
            return Format(FORMAT)
        content = lake.read_small(NAME)  # once more: another process may have made the lake since
        if content is None:
            return Format(0)
    try:
        return msgspec.json.decode(content, type=Format)
    except msgspec.MsgspecError:
        raise LakeError(
            "The lake's format cannot be read", where=NAME, remedy=f"Delete that file and run '{UPGRADE}'."
        ) from None


def write_format(lake: Storage, found: Format) -> None:
    """Write a lake's format, whole and durable."""
    lake.write_small(NAME, msgspec.json.encode(found))


def begin_format(lake: Storage) -> None:
    """Give a lake that is about to be made this release's format; one that is there keeps its own.

    Raises:
        LakeError: the lake cannot be written.
    """
    if lake.holds_table("spans") or lake.read_small(NAME) is not None:
        return
    try:
        write_format(lake, Format(FORMAT))
    except OSError as error:
        raise LakeError(
            f"Lake cannot be made ({type(error).__name__})",
            where=NAME,
            remedy="Check that lake.uri is writable; nothing was written.",
        ) from None


def check_readable(lake: Storage) -> Format:
    """Return a lake's format, if this release can read it.

    Raises:
        LakeError: it is a later release's, or an upgrade to a later one is under way.
    """
    found = read_format(lake)
    if (newest := max(found.format, found.upgrading)) > FORMAT:
        raise LakeError(
            f"The lake has format {newest}; this release knows formats up to {FORMAT}",
            where=NAME,
            remedy="Use the release that has written it, or a later one. Nothing was changed.",
        )
    return found


def check_writable(lake: Storage) -> None:
    """Return if this release may write rows into a lake.

    Raises:
        LakeError: the lake has another format, or is being upgraded.
    """
    found = check_readable(lake)
    if found.format < FORMAT:
        raise LakeError(
            f"The lake has format {found.format}; this release writes format {FORMAT}",
            where=NAME,
            remedy=f"Stop what an earlier release still runs, then: {UPGRADE}. Nothing was changed.",
        )
