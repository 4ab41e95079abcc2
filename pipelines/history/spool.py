"""Keeps the rows of a query on disk: they are read once from the warehouse, judged, and only then loaded.

The file has no name, so the system deletes it however the process ends: identified rows must not be left behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.history.rows import message_starts, whole_messages
from vitalake.errors import LakeError


class Spool:
    """The rows of one query, in tables of whole messages, of which one at a time is in memory."""

    def __init__(self, batches: Iterator[pa.RecordBatch], *, folder: Path, rows: int, panels: bool) -> None:
        """Read all rows from the warehouse.

        Args:
            batches: the rows; all of one schema.
            folder: where the compressed rows are kept.
            rows: about how many rows a table has.
            panels: whether successive rows with one identity are one message; see message_starts.

        Raises:
            LakeError: the folder has no room for them.
            VitaLakeError: the warehouse fails.
        """
        self.rows = self.messages = 0
        self._panels = panels
        self._file = tempfile.TemporaryFile(dir=folder)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        writer: pa.RecordBatchFileWriter | None = None
        try:
            for table in whole_messages(batches, rows=rows, panels=panels):
                writer = writer or pa.ipc.new_file(self._file, table.schema, options=options)
                writer.write_table(table, max_chunksize=table.num_rows)
                self.rows += table.num_rows
                self.messages += len(message_starts(table, panels=panels))
            if writer is not None:
                writer.close()
        except OSError as error:
            raise LakeError(
                f"Rows of the query cannot be written to a temporary file ({error.strerror})",
                where=str(folder),
                remedy="Make room there, then start the load again. Nothing was loaded.",
            ) from None

    def tables(self, *, behind: int = 0) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64]]]:
        """Yield the tables after the first ``behind`` messages, with where each message begins."""
        if not self.rows:
            return
        self._file.seek(0, os.SEEK_SET)
        reader = pa.ipc.open_file(self._file)
        for number in range(reader.num_record_batches):
            table = pa.Table.from_batches([reader.get_batch(number)])
            starts = message_starts(table, panels=self._panels)
            if behind >= len(starts):
                behind -= len(starts)
                continue
            first = int(starts[behind])
            yield table.slice(first), starts[behind:] - first
            behind = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
