"""The lake's format number: a small file in the lake that every writer and reader checks before anything else.

The number counts up when the contents of a lake change in a way that earlier or later releases must know of. It stands
in ``format.json``. A lake that has spans and no such file was made before the number existed, and has format 0. A
reader accepts every format up to its own. A writer accepts only its own: rows of two formats side by side would mean
different things. ``pipelines/republish/upgrade.py`` brings a lake of an earlier format to this one.
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
    """The contents of ``format.json``.

    Attributes:
        format: the format of the lake's contents.
        upgrading: the format that a running upgrade brings the lake to; 0 if none runs. Releases that do not know that
            format are kept out from the start of the upgrade.
        done: steps of that upgrade that are done.
    """

    format: int
    upgrading: int = 0
    done: tuple[str, ...] = ()


def read_format(lake: Storage) -> Format:
    """Return a lake's format; of a lake that does not exist yet, this release's.

    Raises:
        LakeError: the file does not hold a format.
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
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise LakeError(
            "The lake's format cannot be read", where=NAME, remedy=f"Delete that file and run '{UPGRADE}'."
        ) from None


def write_format(lake: Storage, lake_format: Format) -> None:
    """Write a lake's format in one step, synced to disk."""
    lake.write_small(NAME, msgspec.json.encode(lake_format))


def begin_format(lake: Storage) -> None:
    """Write this release's format for a lake that is about to be made; an existing lake keeps its own.

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
        LakeError: the format is a later release's, or an upgrade to a later one is under way.
    """
    lake_format = read_format(lake)
    if (newest := max(lake_format.format, lake_format.upgrading)) > FORMAT:
        raise LakeError(
            f"The lake has format {newest}; this release knows formats up to {FORMAT}",
            where=NAME,
            remedy="Use the release that wrote the lake, or a later one. Nothing was changed.",
        )
    return lake_format


def check_writable(lake: Storage) -> None:
    """Return if this release may write rows into a lake.

    Raises:
        LakeError: the lake has another format, or is being upgraded.
    """
    lake_format = check_readable(lake)
    if lake_format.format < FORMAT:
        raise LakeError(
            f"The lake has format {lake_format.format}; this release writes format {FORMAT}",
            where=NAME,
            remedy=f"Stop every process of an earlier release, then run '{UPGRADE}'. Nothing was changed.",
        )
