"""Look-back files: the fingerprints of a span's rows, so that duplicates are recognised after a restart too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitalake.lake.commits.spans import SEEN, Span
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import StagedFile

FOLDER = "spans-seen"
_FORM = {b"vitalake.fingerprints": b"2"}
"""In the file's metadata: what a row lacks adds nothing. Files without it may hold fingerprints of both forms."""


class Seen(NamedTuple):
    """The fingerprints of a span's rows, and whether an earlier release wrote them: see older_fingerprints."""

    prints: npt.NDArray[np.uint64]
    older: bool


def write_seen(lake: Storage, span_id: str, prints: npt.NDArray[np.uint64]) -> StagedFile:
    """Write the fingerprints of a span, synced, and return the file for the span to list.

    Args:
        lake: the lake's root.
        span_id: the span.
        prints: (n, 2), keyed hashes only.
    """
    table = pa.table({"high": prints[:, 0], "low": prints[:, 1]}).replace_schema_metadata(_FORM)
    path, size = lake.child(FOLDER).write_parquet(
        span_id, table, compression="none", use_dictionary=False, write_statistics=False
    )
    return StagedFile(SEEN, path, size, len(prints), None)


def read_seen(lake: Storage, spans: list[Span], *, entries: int) -> list[Seen]:
    """Return the fingerprints of the newest spans, oldest first, until ``entries`` are reached.

    Files that the sweeper has deleted are passed over.
    """
    folder, found, total = lake.child(FOLDER), [], 0
    for span in reversed(spans):
        for file in span.files_of(SEEN):
            if total >= entries or not folder.exists(file.path):
                continue
            table = folder.read_parquet(file.path)
            prints = np.column_stack([table["high"].to_numpy(), table["low"].to_numpy()])
            found.append(Seen(prints, not _FORM.items() <= (table.schema.metadata or {}).items()))
            total += file.rows
    return found[::-1]
