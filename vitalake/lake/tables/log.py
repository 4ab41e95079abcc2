"""Examines a table's Delta log that cannot be read, and names the damaged files.

A power cut leaves torn or empty entries. For a torn entry delta-rs reports only its parser's error, and it takes an
empty one for a commit of nothing. Examined is what the table needs: the newest readable checkpoint, and every entry
after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema
from deltalake.exceptions import DeltaError

from vitalake.causes import cause_of, unavailable
from vitalake.errors import VitaLakeError
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.entry_digests import LogProblem, contradicted
from vitalake.lake.tables.log_files import LAST, LOG, LogFiles, entry_name, has_lost_its_log, is_there, list_log, read
from vitalake.lake.tables.storage import Storage

NOTHING_TO_FOLLOW = "the newest entry is gone: its checkpoint has what it said, but no commit can follow it"

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
    if newest == base and (base not in files.entries or _torn(storage, files.entries[base])):
        problems.append(LogProblem(entry_name(base), NOTHING_TO_FOLLOW))
    for version in range(base + 1, newest + 1):
        name = files.entries.get(version)
        how = "an entry is missing" if name is None else _torn(storage, name)
        if how:
            problems.append(LogProblem(name or entry_name(version), how, version))
    named = {problem.name for problem in problems}
    return problems + [found for found in contradicted(storage, files, base) if found.name not in named]


def _unreachable(storage: Storage, files: LogFiles, base: int) -> list[LogProblem]:
    """Return old entries that are broken links: no version needs them, but delta-rs fails when it lists them."""
    old = [name for version, name in sorted(files.entries.items()) if version <= base] if storage.local else []
    return [LogProblem(name, "a broken link") for name in old if not Path(storage.root, LOG, name).exists()]


def _hint_problems(storage: Storage, files: LogFiles) -> Iterator[LogProblem]:
    if not files.hint:
        return
    try:
        version = msgspec.json.decode(read(storage, LAST), type=dict[str, Any])["version"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        yield LogProblem(LAST, "it cannot be read")
        return
    except OSError as error:
        yield LogProblem(LAST, f"it cannot be read ({cause_of(error)})")
        return
    if not isinstance(version, int) or version not in files.checkpoints:
        yield LogProblem(LAST, "it names a checkpoint that is missing")


def _is_readable(storage: Storage, name: str) -> bool:
    try:
        checkpoint_actions(storage, name)
    except FileNotFoundError:  # deleted since the listing, or a broken link
        return not is_there(storage, name)
    except (pa.ArrowException, OSError):
        return False
    return True


def checkpoint_actions(storage: Storage, name: str, *, columns: list[str] | None = None) -> pa.Table:
    """Return the actions of a checkpoint.

    By this thread alone: one of Arrow's that gave our bytes back while the process ended would abort it.
    """
    with pq.ParquetFile(pa.BufferReader(read(storage, name))) as file:
        return file.read(columns, use_threads=False)


def _torn(storage: Storage, name: str) -> str:
    """Return what is wrong with an entry; empty: nothing."""
    try:
        content = read(storage, name)
    except FileNotFoundError:  # deleted since the listing, or a broken link
        return "a broken link" if is_there(storage, name) else ""
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
