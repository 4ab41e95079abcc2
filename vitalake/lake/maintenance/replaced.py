"""Reads from the Delta log which files a commit replaced by which: what a merged file was made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitalake.lake.tables.log_files import LOG, list_log
from vitalake.lake.tables.storage import Storage


@dataclass(slots=True)
class Replacement:
    """One commit that replaced files and kept their rows as they were.

    Attributes:
        removed: paths of the files it removed.
        added: paths of the files it added.
    """

    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)


def replacements(storage: Storage, *, checkpoints: bool) -> list[Replacement]:
    """Return the commits that replaced files by others with the same rows, as far as the log still has them.

    Args:
        storage: of the table.
        checkpoints: whether to read also commits whose entries have expired, from a checkpoint. A checkpoint does not
            say whether a commit changed rows, only which files were added and removed at the same millisecond. So
            compare the numbers of rows, and do not use it for a table in which commits change rows but not their
            number.
    """
    files = list_log(storage)
    found = [entry for name in files.entries.values() if (entry := _of_entry(storage, name))]
    if checkpoints and files.checkpoints:
        read_already = {path for entry in found for path in entry.added}
        of_checkpoint = _of_checkpoint(storage, files.checkpoints[max(files.checkpoints)])
        found += [entry for entry in of_checkpoint if read_already.isdisjoint(entry.added)]
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
    except (
        OSError,
        msgspec.MsgspecError,
        UnicodeDecodeError,
    ):  # expired since the listing, or torn: which other checks report
        return None
    return found if found.added and found.removed else None


def _take(found: Replacement, kind: str, action: dict[str, Any]) -> None:
    if kind == "remove":
        found.removed.append(unquote(action["path"]))
    elif kind == "add":
        found.added.append(unquote(action["path"]))


def _of_checkpoint(storage: Storage, names: list[str]) -> Iterator[Replacement]:
    """Yield the files that were added and removed at the same time: our commits give all their actions one time."""
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
