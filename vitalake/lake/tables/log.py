"""A table's Delta log when it cannot be read: which of its files is damaged, said by name.

delta-rs says of a torn entry what its parser met, and takes an empty one for a commit of nothing; a power cut leaves
just those. What the table needs is looked at: the newest checkpoint that can be read, and every entry after it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import Schema
from deltalake.exceptions import DeltaError

from vitalake.causes import cause_of, unavailable
from vitalake.errors import VitaLakeError
from vitalake.lake.tables.digests import Damaged, digest_of
from vitalake.lake.tables.storage import Storage

LOG = "_delta_log"
LAST = "_last_checkpoint"
SET_ASIDE = "_damaged"
"""Beside a table's log: what a repair took out of the way. Engines pass over such names."""

BEFORE = "vitalake.before"
"""In an entry's commitInfo: the digest of the entry before it."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\..+)?\.parquet")
STAMP = "%Y%m%dT%H%M%S"
_CUT = re.compile(r"(\d{8}T\d{6})\.\d{20}\.json")
"""An entry that a repair set aside, and when, in UTC."""

DONE = ".made-again"
"""At the end of such a name: the table was made again since."""

_ACTIONS = {"add", "remove", "txn", "metaData", "protocol", "commitInfo", "cdc", "domainMetadata", "sidecar"}


class _Add(msgspec.Struct, frozen=True):
    path: str
    size: int
    partitionValues: dict[str, str | None]
    modificationTime: int
    dataChange: bool


class _Remove(msgspec.Struct, frozen=True):
    path: str
    dataChange: bool


class _Txn(msgspec.Struct, frozen=True):
    appId: str
    version: int


class _Protocol(msgspec.Struct, frozen=True):
    minReaderVersion: int
    minWriterVersion: int


class _Format(msgspec.Struct, frozen=True):
    provider: Literal["parquet"]


class _MetaData(msgspec.Struct, frozen=True):
    id: str
    format: _Format
    schemaString: str
    partitionColumns: list[str]
    configuration: dict[str, str]


_NEEDED: dict[str, type[msgspec.Struct]] = {
    "add": _Add, "remove": _Remove, "txn": _Txn, "protocol": _Protocol, "metaData": _MetaData,
}  # fmt: skip
"""What has to stand in an action: delta-rs says of one that lacks it what its parser met, and not where."""


@dataclass(frozen=True, slots=True)
class LogProblem:
    """A file of the log that is damaged.

    Attributes:
        name: of the file, in the log's folder.
        how: what is wrong with it.
        version: of an entry; None: it is a checkpoint, or the hint where the newest one is.
    """

    name: str
    how: str
    version: int | None = None


@dataclass(slots=True)
class LogFiles:
    """What lies in a log's folder: entries and checkpoints by version, and whether there is a hint."""

    entries: dict[int, str] = field(default_factory=dict)
    checkpoints: dict[int, list[str]] = field(default_factory=dict)
    hint: bool = False


def list_log(storage: Storage) -> LogFiles:
    """Return what lies in a table's log."""
    found = LogFiles()
    for name in _names(storage):
        if match := _ENTRY.fullmatch(name):
            found.entries[int(match[1])] = name
        elif match := _CHECKPOINT.fullmatch(name):
            found.checkpoints.setdefault(int(match[1]), []).append(name)
        found.hint |= name == LAST
    return found


def _names(storage: Storage) -> list[str]:
    """Return every name in a log's folder, also of what is no file, or a link to nothing, in the place of one."""
    if storage.local:
        try:
            return os.listdir(f"{storage.root}/{LOG}")
        except (FileNotFoundError, NotADirectoryError):
            return []
    selector = pafs.FileSelector(f"{storage.root}/{LOG}", allow_not_found=True)
    return [info.base_name for info in storage.fs.get_file_info(selector)]


def examine(storage: Storage) -> list[LogProblem]:
    """Return what is damaged of the log that the newest version needs; nothing: all of it can be read."""
    files = list_log(storage)
    problems = [*_hint_problems(storage, files)]
    base = -1
    for version in sorted(files.checkpoints, reverse=True):
        torn = [name for name in files.checkpoints[version] if not _is_readable(storage, name)]
        problems += [LogProblem(name, "a checkpoint that cannot be read") for name in torn]
        if not torn:
            base = version
            break
    problems += _unreachable(storage, files, base)
    newest = max([*files.entries, base])
    if newest < 0:
        return problems + [LogProblem("", "it is gone", 0)] * is_torn_off(storage)
    for version in range(base + 1, newest + 1):
        name = files.entries.get(version)
        how = "an entry is missing" if name is None else _torn(storage, name)
        if how:
            problems.append(LogProblem(name or f"{version:020}.json", how, version))
    named = {problem.name for problem in problems}
    return problems + [found for found in _contradicted(storage, files, base) if found.name not in named]


def _unreachable(storage: Storage, files: LogFiles, base: int) -> list[LogProblem]:
    """Return entries that nobody needs any more but that stop whoever lists the log: links that lead nowhere."""
    old = [name for version, name in sorted(files.entries.items()) if version <= base] if storage.local else []
    return [LogProblem(name, "a link that leads nowhere") for name in old if not Path(storage.root, LOG, name).exists()]


def _hint_problems(storage: Storage, files: LogFiles) -> Iterator[LogProblem]:
    if not files.hint:
        return
    try:
        version = msgspec.json.decode(_read(storage, LAST), type=dict[str, Any])["version"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        yield LogProblem(LAST, "it cannot be read")
        return
    except OSError as error:
        yield LogProblem(LAST, f"it cannot be read ({cause_of(error)})")
        return
    if version not in files.checkpoints:
        yield LogProblem(LAST, "it names a checkpoint that is missing")


def _is_readable(storage: Storage, name: str) -> bool:
    try:
        pq.read_table(pa.BufferReader(_read(storage, name)))
    except FileNotFoundError:  # cleaned up under our eyes, or a link to nothing
        return not _is_there(storage, name)
    except (pa.ArrowException, OSError):
        return False
    return True


def _torn(storage: Storage, name: str) -> str:
    """Return what is wrong with an entry; empty: nothing."""
    try:
        content = _read(storage, name)
    except FileNotFoundError:  # cleaned up under our eyes, or a link to nothing
        return "a link that leads nowhere" if _is_there(storage, name) else ""
    except OSError as error:
        return f"an entry cannot be read ({cause_of(error)})"
    if not content.strip():
        return "an entry is empty"
    for line in content.splitlines():
        try:
            action = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return "an entry is torn"
        if line.strip() and not (isinstance(action, dict) and action.keys() & _ACTIONS and _has_form(action)):
            return "an entry holds something else"
    return ""


def _has_form(action: dict[str, Any]) -> bool:
    try:
        for kind, content in action.items():
            if kind in _NEEDED:
                found = msgspec.convert(content, _NEEDED[kind])
                if isinstance(found, _MetaData):
                    fields = Schema.from_json(found.schemaString).fields
                    if not set(found.partitionColumns) <= {field.name for field in fields}:
                        return False
    except (msgspec.MsgspecError, DeltaError, ValueError, TypeError):
        return False
    return True


def _is_there(storage: Storage, name: str) -> bool:
    """Return whether a name that cannot be opened still is in the log's folder; asked of local files only."""
    return storage.local and os.path.lexists(f"{storage.root}/{LOG}/{name}")


def _read(storage: Storage, name: str) -> bytes:
    """Return what a file of the log holds.

    Raises:
        OSError: it cannot be read; with the system's number where it lies in a folder, which Arrow leaves out.
    """
    if storage.local:
        return Path(storage.root, LOG, name).read_bytes()
    with storage.fs.open_input_stream(f"{storage.root}/{LOG}/{name}") as source:
        return bytes(source.read())


def read_actions(storage: Storage, name: str) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """Return what an entry says: path → (bytes, rows) of the files it adds, and its transactions by application id.

    Nothing of a rewrite: it says of files what no span does.
    """
    added, transactions = {}, {}
    for line in _read(storage, name).splitlines():
        for kind, action in (msgspec.json.decode(line) if line.strip() else {}).items():
            if kind == "add":
                rows = msgspec.json.decode(action.get("stats") or "{}").get("numRecords", -1)
                added[unquote(action["path"])] = (action.get("size", -1), rows)
            elif kind == "remove":
                return {}, {}
            elif kind == "txn":
                transactions[action["appId"]] = action["version"]
    return added, transactions


# -- the digests of entries ----------------------------------------------------------------------------------------


def before(storage: Storage, version: int) -> dict[str, Any] | None:
    """Return what a commit says of the entry it follows, and of the checkpoint there; None: nothing can be said.

    An entry has no checksum: a digit of a position that flips would be a position. So each says its forerunner's
    digest. Of local files only: object storage keeps checksums of its own, and asking it costs as much as a commit.
    """
    if not storage.local:
        return None
    digests = {}
    for kind, name in (("entry", f"{version:020}.json"), ("checkpoint", f"{version:020}.checkpoint.parquet")):
        try:
            digests[kind] = digest_of(Path(storage.root, LOG, name).read_bytes())
        except OSError:  # there seldom is a checkpoint
            continue
    return {BEFORE: {"version": version, **digests}} if digests else None


def _contradicted(storage: Storage, files: LogFiles, base: int) -> Iterator[LogProblem]:
    """Yield the entries and checkpoints that a later entry says were something else."""
    for version, name in sorted(files.entries.items()):
        if version <= base:
            continue
        try:
            said = _said_before(_read(storage, name))
            entry = int(said.get("version", -1))
            for kind, other in (("entry", f"{entry:020}.json"), ("checkpoint", f"{entry:020}.checkpoint.parquet")):
                needed = entry > base if kind == "entry" else entry == base
                if needed and kind in said and digest_of(_read(storage, other)) != said[kind]:
                    yield LogProblem(other, "it is not what was written", entry if kind == "entry" else None)
        except (OSError, ValueError):  # cleaned up, torn, or not to be read, which is said by others
            continue


def _said_before(content: bytes) -> dict[str, Any]:
    for line in content.splitlines():
        if b'"commitInfo"' in line:
            found = msgspec.json.decode(line).get("commitInfo", {}).get(BEFORE, {})
            return dict(found) if isinstance(found, dict) else {}
    return {}


def is_contradicted(storage: Storage) -> bool:
    """Return whether an entry or checkpoint that the table needs is not what was written; local files only."""
    files = list_log(storage) if storage.local else LogFiles()
    return any(True for _ in _contradicted(storage, files, max(files.checkpoints, default=-1)))


def is_hidden(storage: Storage, version: int) -> bool:
    """Return whether the entry after a version is no file: delta-rs passes over a folder, and can commit nothing there.

    Asked of local files only.
    """
    following = f"{storage.root}/{LOG}/{version + 1:020}.json"
    return storage.local and os.path.lexists(following) and not os.path.isfile(following)


def is_empty(storage: Storage, version: int) -> bool:
    """Return whether an entry holds nothing, which delta-rs passes over; asked of local files only."""
    try:
        return storage.local and Path(storage.root, LOG, f"{version:020}.json").stat().st_size == 0
    except OSError:  # expired; or it cannot be read, which delta-rs says as well
        return False


def cut_at(storage: Storage) -> float:
    """Return when a repair took entries out of a table's log last, seconds since 1970; 0: it never did.

    The end of that second: what was written within it was written before, and is spared by who spares that.
    """
    selector = pafs.FileSelector(f"{storage.root}/{SET_ASIDE}", allow_not_found=True)
    stamps = [match[1] for info in storage.fs.get_file_info(selector) if (match := _CUT.fullmatch(info.base_name))]
    return datetime.strptime(f"{max(stamps)}+0000", f"{STAMP}%z").timestamp() + 1 if stamps else 0.0


def is_to_be_made_again(storage: Storage) -> bool:
    """Return whether entries of a published table were taken out of its log, and it was not published again since.

    What was taken away is the sign, so that it outlasts a repair that is killed, or meets a full disk.
    """
    taken = storage.fs.get_file_info(f"{storage.root}/{SET_ASIDE}").type == pafs.FileType.Directory
    return cut_at(storage) > 0 or (taken and not list_log(storage).entries)


def note_made_again(storage: Storage) -> None:
    """Write down that a table was made again: what was taken out of its log lies there under other names."""
    selector = pafs.FileSelector(f"{storage.root}/{SET_ASIDE}", allow_not_found=True)
    for info in storage.fs.get_file_info(selector):
        if _CUT.fullmatch(info.base_name):
            storage.fs.move(info.path, f"{info.path}{DONE}")


def is_torn_off(storage: Storage) -> bool:
    """Return whether files of a table lie where no log is: it was lost, and not taken away by a repair."""
    info = storage.fs.get_file_info(f"{storage.root}/{SET_ASIDE}")
    return info.type == pafs.FileType.NotFound and bool(storage.files())


def explained(storage: Storage, error: Exception, what: str = "Table cannot be read") -> VitaLakeError:
    """Return what to say when a table cannot be opened, refreshed or committed to: which file of its log is damaged.

    Args:
        storage: of the table.
        error: as delta-rs or the system raised it.
        what: what failed, for where the log is whole.
    """
    try:
        problems = examine(storage)
    except OSError as other:
        problems, error = [], other
    if problems:
        first = problems[0]
        return Damaged(
            f"The log of a table is damaged ({first.how})",
            where=f"{storage.name}/{LOG}/{first.name}",
            remedy="Nothing was written. Stop what writes to the lake, then run 'vitalake lake repair'.",
        )
    return unavailable(
        error,
        what,
        where=storage.name,
        remedy="Check space, permissions and connection of the lake's storage; it is tried again.",
    )
