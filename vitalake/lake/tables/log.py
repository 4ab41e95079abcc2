"""Examines a table's Delta log that cannot be read, and names the damaged files.

A power cut leaves torn or empty entries. For a torn entry delta-rs reports only its parser's error, and it takes an
empty one for a commit of nothing. Examined is what the table needs: the newest readable checkpoint, and every entry
after it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
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
"""Folder beside a table's log with the files that a repair moved out of it. Engines ignore names with an underscore."""

BEFORE = "vitalake.before"
"""In an entry's commitInfo: the digest of the entry before it."""

OWN = "vitalake.own"
"""In an entry's commitInfo: the digest of its own actions. No later entry has recorded that of the newest one yet."""

OWN = "vitalake.own"
"""In an entry's commitInfo: the digest of its own actions. No later entry has recorded that of the newest one yet."""

NOTHING_TO_FOLLOW = "an entry is missing: its checkpoint has what it said, but no commit can follow it"

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\..+)?\.parquet")
STAMP = "%Y%m%dT%H%M%S"
"""Prefix of the name of a file that was set aside: when, in UTC."""

_CUT = re.compile(r"(\d{8}T\d{6})\.\d{20}\.json")
"""The name of an entry that a repair set aside."""

DONE = ".made-again"
"""Suffix of such a name: the table was made again since."""

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
"""The fields that an action must have: for an action without them delta-rs reports a parser error and no place."""


@dataclass(frozen=True, slots=True)
class LogProblem:
    """A file of the log that is damaged.

    Attributes:
        name: the file's name in the log's folder.
        how: what is wrong with it.
        version: version of an entry; None: it is a checkpoint, or the hint that names the newest checkpoint.
    """

    name: str
    how: str
    version: int | None = None


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


def examine(storage: Storage) -> list[LogProblem]:
    """Return the damaged files among those that the newest version needs; empty: the log can be read."""
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
        return problems + [LogProblem("", "it is gone", 0)] * has_lost_its_log(storage)
    if newest == base and base not in files.entries:
        problems.append(LogProblem(entry_name(base), NOTHING_TO_FOLLOW))
    for version in range(base + 1, newest + 1):
        name = files.entries.get(version)
        how = "an entry is missing" if name is None else _torn(storage, name)
        if how:
            problems.append(LogProblem(name or entry_name(version), how, version))
    named = {problem.name for problem in problems}
    return problems + [found for found in _contradicted(storage, files, base) if found.name not in named]


def _unreachable(storage: Storage, files: LogFiles, base: int) -> list[LogProblem]:
    """Return old entries that are broken links: no version needs them, but delta-rs fails when it lists them."""
    old = [name for version, name in sorted(files.entries.items()) if version <= base] if storage.local else []
    return [LogProblem(name, "a broken link") for name in old if not Path(storage.root, LOG, name).exists()]


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
    except FileNotFoundError:  # deleted since the listing, or a broken link
        return not _is_there(storage, name)
    except (pa.ArrowException, OSError):
        return False
    return True


def _torn(storage: Storage, name: str) -> str:
    """Return what is wrong with an entry; empty: nothing."""
    try:
        content = _read(storage, name)
    except FileNotFoundError:  # deleted since the listing, or a broken link
        return "a broken link" if _is_there(storage, name) else ""
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
    """Return whether a name that cannot be opened is still in the log's folder; only for local storage."""
    return storage.local and os.path.lexists(f"{storage.root}/{LOG}/{name}")


def _read(storage: Storage, name: str) -> bytes:
    """Return the content of a file of the log.

    Raises:
        OSError: it cannot be read; for local storage with the system's error number, which Arrow leaves out.
    """
    if storage.local:
        return Path(storage.root, LOG, name).read_bytes()
    with storage.fs.open_input_stream(f"{storage.root}/{LOG}/{name}") as source:
        return bytes(source.read())


def read_transactions(storage: Storage) -> dict[str, int]:
    """Return every application's last transaction; delta-rs returns only the one of an application that is named.

    Raises:
        VitaLakeError: the log cannot be read.
    """
    try:
        files = list_log(storage)
        base = max(files.checkpoints, default=-1)
        found = {}
        for name in files.checkpoints.get(base, ()):
            rows = pq.read_table(pa.BufferReader(_read(storage, name)), columns=["txn"])["txn"].drop_null().to_pylist()
            found.update({row["appId"]: row["version"] for row in rows})
        for version, name in sorted(files.entries.items()):
            for line in _read(storage, name).splitlines() if version > base else ():
                if b'"txn"' in line and (action := msgspec.json.decode(line).get("txn")):
                    found[action["appId"]] = action["version"]
    except (OSError, pa.ArrowException, msgspec.MsgspecError) as error:
        raise explained(storage, error) from None
    return found


# -- the digests of entries ----------------------------------------------------------------------------------------


_DIGESTED = {
    "add": ("path", "size", "partitionValues", "modificationTime", "dataChange", "stats"),
    "remove": ("path", "size", "partitionValues", "deletionTimestamp", "dataChange"),
    "txn": ("appId", "version"),
}
"""The fields of each kind of action that an entry's own digest is made of: those that are given to delta-rs."""


def recorded_in_commit(
    storage: Storage, version: int, *, add: Iterable[tuple[Any, ...]], remove: Iterable[tuple[Any, ...]],
    txn: Iterable[tuple[str, int]],
) -> dict[str, Any]:  # fmt: skip
    """Return the digests that a commit records: of its own actions, of the entry before it, of the checkpoint there.

    An entry has no checksum: if a digit of a position flips, the result is another position. Its own digest covers what
    delta-rs was given. What delta-rs adds is covered by the next entry, for local storage only; object storage keeps
    checksums of its own, and reading the entry before would cost as much as a commit.

    Args:
        storage: of the table.
        version: that the commit follows.
        add: the fields of its add actions, in the order of ``_DIGESTED``.
        remove: the same of its remove actions.
        txn: its transactions.
    """
    digests: dict[str, Any] = {"version": version}
    for kind, name in (("entry", entry_name(version)), ("checkpoint", f"{version:020}.checkpoint.parquet")):
        with suppress(OSError):  # most versions have no checkpoint
            if storage.local:
                digests[kind] = digest_of(Path(storage.root, LOG, name).read_bytes())
    recorded: dict[str, Any] = {BEFORE: digests} if len(digests) > 1 else {}
    actions = [(kind, *fields) for kind, some in (("add", add), ("remove", remove), ("txn", txn)) for fields in some]
    return recorded | {OWN: _own_digest(actions, recorded)}


def _own_digest(actions: Iterable[tuple[Any, ...]], recorded: Mapping[str, Any]) -> str:
    parts = [(BEFORE, recorded.get(BEFORE)), *actions]
    return digest_of(b"\n".join(sorted(msgspec.json.encode(part, order="sorted") for part in parts)))


def _contradicted(storage: Storage, files: LogFiles, base: int) -> Iterator[LogProblem]:
    """Yield the entries and checkpoints whose digest differs from the one that they or a later entry record."""
    for version, name in sorted(files.entries.items()):
        if version <= base:
            continue
        try:
            content = _read(storage, name)
            recorded = _recorded_digests(content)
            own = OWN not in recorded or _own_digest(_actions(content), recorded) == recorded[OWN]
        except OSError:  # deleted, or unreadable, which other checks report
            continue
        except (ValueError, TypeError, LookupError, AttributeError):  # delta-rs takes more than JSON allows
            own = False
        if not own:
            yield LogProblem(name, "it is not what was written", version)
            continue  # nor is what it says of the entry before it
        digests = recorded.get(BEFORE, {})
        entry = digests.get("version", -1)
        for kind, other in (("entry", entry_name(entry)), ("checkpoint", f"{entry:020}.checkpoint.parquet")):
            needed = entry > base if kind == "entry" else entry == base
            with suppress(OSError):
                if needed and kind in digests and digest_of(_read(storage, other)) != digests[kind]:
                    yield LogProblem(other, "it is not what was written", entry if kind == "entry" else None)


def _recorded_digests(content: bytes) -> dict[str, Any]:
    for line in content.splitlines():
        if b'"commitInfo"' in line:
            info = msgspec.json.decode(line)["commitInfo"]
            return {name: info[name] for name in (BEFORE, OWN) if name in info}
    return {}


def _actions(content: bytes) -> Iterator[tuple[Any, ...]]:
    """Yield kind and fields of each action of an entry, without delta-rs' own line."""
    for line in content.splitlines():
        for kind, action in (msgspec.json.decode(line) if line.strip() else {}).items():
            if kind == "commitInfo":
                continue
            fields = [action.get(name) for name in _DIGESTED.get(kind, ())]
            if kind in ("add", "remove"):
                fields[0] = unquote(fields[0])
            yield kind, *fields


def is_contradicted(storage: Storage) -> bool:
    """Return whether an entry or checkpoint that the table needs is not what was written; only for local storage."""
    files = list_log(storage) if storage.local else LogFiles()
    return any(True for _ in _contradicted(storage, files, max(files.checkpoints, default=-1)))


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
    selector = pafs.FileSelector(f"{storage.root}/{SET_ASIDE}", allow_not_found=True)
    stamps = [match[1] for info in storage.fs.get_file_info(selector) if (match := _CUT.fullmatch(info.base_name))]
    return datetime.strptime(f"{max(stamps)}+0000", f"{STAMP}%z").timestamp() + 1 if stamps else 0.0


def is_to_be_made_again(storage: Storage) -> bool:
    """Return whether entries of a published table were moved out of its log, and it was not published again since.

    The moved files themselves are the mark, so that it survives a repair that is killed or meets a full disk.
    """
    exists = storage.fs.get_file_info(f"{storage.root}/{SET_ASIDE}").type == pafs.FileType.Directory
    return cut_at(storage) > 0 or (exists and not list_log(storage).entries)


def note_made_again(storage: Storage) -> None:
    """Record that a table was made again, by renaming the files that were moved out of its log."""
    selector = pafs.FileSelector(f"{storage.root}/{SET_ASIDE}", allow_not_found=True)
    for info in storage.fs.get_file_info(selector):
        if _CUT.fullmatch(info.base_name):
            storage.fs.move(info.path, f"{info.path}{DONE}")


def has_lost_its_log(storage: Storage) -> bool:
    """Return whether a table has files and no log, because the log was lost and not moved away by a repair."""
    info = storage.fs.get_file_info(f"{storage.root}/{SET_ASIDE}")
    return info.type == pafs.FileType.NotFound and bool(storage.files())


def explained(storage: Storage, error: Exception, what: str = "Table cannot be read") -> VitaLakeError:
    """Return the error for a table that cannot be opened, refreshed or committed; it names a damaged file of the log.

    Args:
        storage: of the table.
        error: the error of delta-rs or the system.
        what: what failed; used if the log is not damaged.
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
            remedy="Nothing was written. Stop all that writes to the lake, then run 'vitalake lake repair'.",
        )
    return unavailable(
        error,
        what,
        where=storage.name,
        remedy="Check space, permissions and connection of the lake's storage; it is tried again.",
    )
