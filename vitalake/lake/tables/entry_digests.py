"""Digests of log entries: each records one of its own actions, and that of the entry before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from vitalake.lake.tables.digests import digest_of
from vitalake.lake.tables.log_files import LogFiles, checkpoint_name, entry_name, list_log, read
from vitalake.lake.tables.storage import Storage

BEFORE = "vitalake.before"
"""In an entry's commitInfo: the digest of the entry before it."""

OF = "checkpoint_version"
"""Beside the digest of a checkpoint: its version, which can be lower than that of the entry before."""

OWN = "vitalake.own"
"""In an entry's commitInfo: the digest of its own actions. No later entry has recorded that of the newest one yet."""


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


_DIGESTED = {
    "add": ("path", "size", "partitionValues", "modificationTime", "dataChange", "stats"),
    "remove": ("path", "size", "partitionValues", "deletionTimestamp", "dataChange"),
    "txn": ("appId", "version"),
}
"""The fields of each kind of action that an entry's own digest is made of: those that are given to delta-rs."""


def recorded_in_commit(
    storage: Storage, version: int, *, add: Iterable[tuple[Any, ...]], remove: Iterable[tuple[Any, ...]],
    txn: Iterable[tuple[str, int]], checkpoint: int = -1,
) -> dict[str, Any]:  # fmt: skip
    """Return the digests that a commit records: of its own actions, of the entry before it, and of a checkpoint.

    An entry has no checksum: if a digit of a position flips, the result is another position. Its own digest covers what
    delta-rs was given. What delta-rs adds is covered by the next entry, for local storage only; object storage keeps
    checksums of its own, and reading the entry before would cost as much as a commit.

    Args:
        storage: of the table.
        version: that the commit follows.
        add: the fields of its add actions, in the order of ``_DIGESTED``.
        remove: the same of its remove actions.
        txn: its transactions.
        checkpoint: version of a checkpoint that is to be recorded; below 0: none is.
    """
    digests: dict[str, Any] = {"version": version}
    if storage.local:
        with suppress(OSError):  # deleted, or unreadable, which other checks report
            digests["entry"] = digest_of(read(storage, entry_name(version)))
        with suppress(OSError):
            if checkpoint >= 0:
                digests |= {"checkpoint": digest_of(read(storage, checkpoint_name(checkpoint))), OF: checkpoint}
    recorded: dict[str, Any] = {BEFORE: digests} if len(digests) > 1 else {}
    actions = [(kind, *fields) for kind, some in (("add", add), ("remove", remove), ("txn", txn)) for fields in some]
    return recorded | {OWN: _own_digest(actions, recorded)}


def _own_digest(actions: Iterable[tuple[Any, ...]], recorded: Mapping[str, Any]) -> str:
    parts = [(BEFORE, recorded.get(BEFORE)), *actions]
    return digest_of(b"\n".join(sorted(msgspec.json.encode(part, order="sorted") for part in parts)))


def contradicted(storage: Storage, files: LogFiles, base: int) -> Iterator[LogProblem]:
    """Yield the entries and checkpoints whose digest differs from the one that they or a later entry record."""
    contents: dict[str, bytes] = {}
    for version, name in sorted(files.entries.items()):
        if version <= base:
            continue
        try:
            contents[name] = content = read(storage, name)
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
        checkpoint = digests.get(OF, entry)  # earlier releases recorded only one of that version
        for kind, other in (("entry", entry_name(entry)), ("checkpoint", checkpoint_name(checkpoint))):
            needed = entry > base if kind == "entry" else checkpoint == base
            with suppress(OSError):
                if not needed or kind not in digests:
                    continue
                if digest_of(contents.pop(other, None) or read(storage, other)) != digests[kind]:
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
    return any(True for _ in contradicted(storage, files, max(files.checkpoints, default=-1)))
