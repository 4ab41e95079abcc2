"""Which files a commit replaced by which, as the Delta log has it: what a merged file was made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitalake.lake.tables.log import LOG, list_log
from vitalake.lake.tables.storage import Storage


@dataclass(slots=True)
class Replacement:
    """One commit that replaced files and kept their rows as they were.

    Attributes:
        removed: paths of the files it took out.
        added: paths of the files it put in.
    """

    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)


def replacements(storage: Storage, *, checkpoints: bool) -> list[Replacement]:
    """Return the commits that replaced files by others with the very same rows, as far as the log still has them.

    Args:
        storage: of the table.
        checkpoints: whether to ask checkpoints for commits whose entries have expired. They do not say whether a commit
            changed rows, only which files came and went at the same millisecond: hold the numbers of rows against
            each other, and do not ask where a commit may change rows without changing how many they are.
    """
    files = list_log(storage)
    found = [entry for name in files.entries.values() if (entry := _of_entry(storage, name))]
    if checkpoints and files.checkpoints:
        known = {path for entry in found for path in entry.added}
        older = _of_checkpoint(storage, files.checkpoints[max(files.checkpoints)])
        found += [entry for entry in older if known.isdisjoint(entry.added)]
    return found


def _of_entry(storage: Storage, name: str) -> Replacement | None:
    found = Replacement()
    try:
        with storage.fs.open_input_stream(f"{storage.root}/{LOG}/{name}") as source:
            content = bytes(source.read())
        if b'"remove"' not in content:
            return None
        for line in content.splitlines():
            for kind, action in msgspec.json.decode(line, type=dict[str, dict[str, Any]]).items():
                if kind in ("add", "remove") and action.get("dataChange", True):
                    return None
                _take(found, kind, action)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):  # expired under our eyes, or torn: others say so
        return None
    return found if found.added and found.removed else None


def _take(found: Replacement, kind: str, action: dict[str, Any]) -> None:
    if kind == "remove":
        found.removed.append(unquote(action["path"]))
    elif kind == "add":
        found.added.append(unquote(action["path"]))


def _of_checkpoint(storage: Storage, names: list[str]) -> Iterator[Replacement]:
    """Yield what came and went at the same time: a commit of ours writes one time into all its actions."""
    at: dict[int, Replacement] = {}
    try:
        for name in names:
            rows = pq.read_table(f"{storage.root}/{LOG}/{name}", filesystem=storage.fs, columns=["add", "remove"])
            for kind, when in (("add", "modificationTime"), ("remove", "deletionTimestamp")):
                for action in rows[kind].filter(_is_there(rows[kind])).to_pylist():
                    _take(at.setdefault(action[when], Replacement()), kind, action)
    except (OSError, pa.ArrowException, KeyError):
        return
    yield from (found for found in at.values() if found.added and found.removed)


def _is_there(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_valid(pc.struct_field(column, "path"))
