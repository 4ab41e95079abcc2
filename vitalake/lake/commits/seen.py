"""Look-back files: the fingerprints of a span's rows, so that duplicates are recognised also after a restart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitalake.lake.commits.span import SEEN, Span
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import StagedFile

FOLDER = "spans-seen"
_FORM = {b"vitalake.fingerprints": b"2"}
"""In the file's metadata: the form of fingerprints in which a null adds nothing. Files without this entry may hold
fingerprints of both forms."""


class Seen(NamedTuple):
    """The fingerprints of a span's rows, and whether an earlier release wrote them; see ``older_fingerprints``."""

    prints: npt.NDArray[np.uint64]
    older: bool


def write_seen(lake: Storage, span_id: str, prints: npt.NDArray[np.uint64]) -> StagedFile:
    """Write the fingerprints of a span, synced to disk, and return the file that the span is to list.

    Args:
        lake: the lake's root.
        span_id: the span.
        prints: keyed hashes, of shape (n, 2).
    """
    table = pa.table({"high": prints[:, 0], "low": prints[:, 1]}).replace_schema_metadata(_FORM)
    path, size = lake.child(FOLDER).write_parquet(
        span_id, table, compression="none", use_dictionary=False, write_statistics=False
    )
    return StagedFile(SEEN, path, size, len(prints), None)


def read_seen(lake: Storage, spans: list[Span], *, entries: int) -> list[Seen]:
    """Return the fingerprints of the newest spans, oldest first, until ``entries`` are reached.

    Files that the sweeper has deleted are skipped.
    """
    folder, fingerprints, total = lake.child(FOLDER), [], 0
    for span in reversed(spans):
        for file in span.files_of(SEEN):
            if total >= entries or not folder.exists(file.path):
                continue
            table = folder.read_parquet(file.path)
            prints = np.column_stack([table["high"].to_numpy(), table["low"].to_numpy()])
            fingerprints.append(Seen(prints, not _FORM.items() <= (table.schema.metadata or {}).items()))
            total += file.rows
    return fingerprints[::-1]
