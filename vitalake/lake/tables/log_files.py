"""The files of a table's Delta log: which there are, what they hold, and what a repair has moved away."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.fs as pafs

from vitalake.lake.tables.storage import Storage

LOG = "_delta_log"
LAST = "_last_checkpoint"
SET_ASIDE = "_damaged"
"""Folder beside a table's log with the files that a repair moved out of it. Engines ignore names with an underscore."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\..+)?\.parquet")
STAMP = "%Y%m%dT%H%M%S"
"""Prefix of the name of a file that was set aside: when, in UTC."""

DONE = ".made-again"
"""Suffix of the name of an entry that a repair set aside: the table was made again since."""

_BEGUN = "made-again-from-here"
"""The mark that a whole log was moved away on purpose."""

_CUT = re.compile(rf"(?P<stamp>\d{{8}}T\d{{6}})\.(?P<version>\d{{20}})\.json(?P<done>{re.escape(DONE)})?")
"""The name of an entry that a repair set aside."""


@dataclass(slots=True)
class LogFiles:
    """The contents of a log's folder: entries and checkpoints by version, and whether ``_last_checkpoint`` is there."""

    entries: dict[int, str] = field(default_factory=dict)
    checkpoints: dict[int, list[str]] = field(default_factory=dict)
    hint: bool = False


def entry_name(version: int) -> str:
    """Return the name of an entry's file."""
    return f"{version:020}.json"


def list_log(storage: Storage) -> LogFiles:
    """List the files of a table's log."""
    found = LogFiles()
    for name in _names(storage):
        if match := _ENTRY.fullmatch(name):
            found.entries[int(match[1])] = name
        elif match := _CHECKPOINT.fullmatch(name):
            found.checkpoints.setdefault(int(match[1]), []).append(name)
        found.hint |= name == LAST
    return found


def _names(storage: Storage) -> list[str]:
    """Return every name in a log's folder, also of folders and broken links."""
    if storage.local:
        try:
            return os.listdir(f"{storage.root}/{LOG}")
        except (FileNotFoundError, NotADirectoryError):
            return []
    selector = pafs.FileSelector(f"{storage.root}/{LOG}", allow_not_found=True)
    return [info.base_name for info in storage.fs.get_file_info(selector)]


def is_there(storage: Storage, name: str) -> bool:
    """Return whether a name that cannot be opened is still in the log's folder; only for local storage."""
    return storage.local and os.path.lexists(f"{storage.root}/{LOG}/{name}")


def read(storage: Storage, name: str) -> bytes:
    """Return the content of a file of the log.

    Raises:
        OSError: it cannot be read; for local storage with the system's error number, which Arrow leaves out.
    """
    if storage.local:
        with open(f"{storage.root}/{LOG}/{name}", "rb") as file:
            return file.read()
    with storage.fs.open_input_stream(f"{storage.root}/{LOG}/{name}") as source:
        return bytes(source.read())


def checkpoint_name(version: int) -> str:
    """Return the name of a checkpoint's file, as delta-rs writes it."""
    return f"{version:020}.checkpoint.parquet"


def newest_checkpoint(storage: Storage) -> int:
    """Return the version of the checkpoint that the log names as its newest; -1: it names none. For local storage."""
    try:
        content = read(storage, LAST) if storage.local else b"{}"
        version = msgspec.json.decode(content, type=dict[str, Any]).get("version", -1)
        return version if isinstance(version, int) else -1
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):  # there is none, or it is damaged, which others report
        return -1


def is_hidden(storage: Storage, version: int) -> bool:
    """Return whether something that is not a file has the name of the entry after a version; only for local storage.

    delta-rs ignores a folder of that name, and cannot commit there.
    """
    following = f"{storage.root}/{LOG}/{entry_name(version + 1)}"
    return storage.local and os.path.lexists(following) and not os.path.isfile(following)


def is_empty(storage: Storage, version: int) -> bool:
    """Return whether an entry is empty, which delta-rs does not report; only for local storage."""
    try:
        return storage.local and Path(storage.root, LOG, entry_name(version)).stat().st_size == 0
    except OSError:  # expired, or unreadable, which delta-rs reports
        return False


def cut_at(storage: Storage) -> float:
    """Return when a repair last moved entries out of a table's log, in seconds since 1970; 0: it never did.

    It is the end of that second, so that files written within the same second count as written before the repair.
    """
    stamps = cuts(storage)
    return datetime.strptime(f"{max(stamps)}+0000", f"{STAMP}%z").timestamp() + 1 if stamps else 0.0


def cuts(storage: Storage) -> list[str]:
    """Return when each entry was moved out of a table's log by a repair, as ``STAMP``, if not made again since."""
    return [match["stamp"] for match in _cuts(storage) if not match["done"]]


def newest_cut(storage: Storage) -> int:
    """Return the newest version that repairs ever moved out of a table's log; -1: none did."""
    return max((int(match["version"]) for match in _cuts(storage)), default=-1)


def _cuts(storage: Storage) -> list[re.Match[str]]:
    selector = pafs.FileSelector(f"{storage.root}/{SET_ASIDE}", allow_not_found=True)
    return [match for info in storage.fs.get_file_info(selector) if (match := _CUT.fullmatch(info.base_name))]


def mark_of_repairs(storage: Storage) -> tuple[int, int]:
    """Return what is another value after entries were moved out of a table's log; only for local storage.

    Its versions can have other entries then: who goes on with those of before misses what the repair has raised.
    """
    folder = f"{storage.root}/{SET_ASIDE}"
    try:
        return (os.stat(folder).st_mtime_ns, len(os.listdir(folder))) if storage.local else (0, 0)
    except OSError:  # no repair has moved anything
        return 0, 0


def note_log_set_aside(storage: Storage, fence: int) -> None:
    """Record that the whole log of a published table was moved away, so that the table is made again: it is not lost.

    Args:
        storage: the table's.
        fence: of its dataset, raised before; see ``made_again_from``.
    """
    storage.write_small(f"{SET_ASIDE}/{_BEGUN}", str(fence).encode())


def made_again_from(storage: Storage) -> int | None:
    """Return the fence under which a published table is being made again; None: it is not.

    Spans of an earlier fence must not be added to it: it gets their rows from the restricted zone, by today's rules.
    """
    content = storage.read_small(f"{SET_ASIDE}/{_BEGUN}")
    if content is None:
        return None
    return int(content) if content.isdigit() else 0


def has_lost_entries(storage: Storage) -> bool:
    """Return whether the log of a published table has lost entries, and the table was not made again since.

    Its rows are not all of those that were published, or are some that a lost entry had removed.
    """
    return made_again_from(storage) is not None or bool(cuts(storage))


def lost_with_the_log(storage: Storage) -> set[str]:
    """Return the files of a table that is made again which no log named, if it was lost: those of before."""
    mark = storage.fs.get_file_info(f"{storage.root}/{SET_ASIDE}/{_BEGUN}").mtime
    return {path for path, changed in storage.files(suffix="").items() if mark and changed < mark.timestamp()}


def is_to_be_made_again(storage: Storage) -> bool:
    """Return whether entries of a published table were moved out of its log, and it was not published again since.

    The moved files themselves are the mark, so that it survives a repair that is killed or meets a full disk.
    """
    if made_again_from(storage) is not None:
        return True
    exists = storage.fs.get_file_info(f"{storage.root}/{SET_ASIDE}").type == pafs.FileType.Directory
    return cut_at(storage) > 0 or (exists and not list_log(storage).entries)


def note_made_again(storage: Storage) -> None:
    """Record that a table was made again, by renaming the files that were moved out of its log."""
    selector = pafs.FileSelector(f"{storage.root}/{SET_ASIDE}", allow_not_found=True)
    for info in storage.fs.get_file_info(selector):
        if info.base_name == _BEGUN:
            storage.delete(f"{SET_ASIDE}/{_BEGUN}")
        if (match := _CUT.fullmatch(info.base_name)) and not match["done"]:
            storage.fs.move(info.path, f"{info.path}{DONE}")


def has_lost_its_log(storage: Storage) -> bool:
    """Return whether a table has files and no log, because the log was lost and not moved away to be made again."""
    return made_again_from(storage) is None and bool(storage.files())
