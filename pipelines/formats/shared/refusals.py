"""Messages that cannot be used: all rows of a message are kept, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.shared.encoded import Encoded
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Reject

MOST_ROWS = 2_000
"""Rows a message may have: a chart's worth of panels; a megabyte of tiny components would be ten times that."""


class Refusals:
    """Collects why messages cannot be used; the first reason of a message counts."""

    def __init__(self, message: npt.NDArray[np.int32], rejects: dict[int, Reject]) -> None:
        self._message, self._rejects = message, rejects

    def mark(self, bad: npt.NDArray[np.bool_], reason: Reason, path: str) -> None:
        """Refuse the messages of the rows that are bad."""
        if bad.any():
            for i in self._message[self.relevant(bad)].tolist():
                self._rejects.setdefault(i, Reject(i, reason, path))

    def of(self, column: Encoded[Any]) -> None:
        """Refuse the messages whose element was refused.

        Of several in a message its first one counts, whatever other messages of the poll hold.
        """
        if not column.refused:
            return
        rows = np.flatnonzero(self.relevant(np.isin(column.index, [*column.refused])))
        for row in rows[np.unique(self._message[rows], return_index=True)[1]].tolist():
            why = column.refused[int(column.index[row])]
            self.refuse(row, why.reason, why.path)

    def refuse(self, row: int, reason: Reason, path: str) -> None:
        """Refuse the message of one row."""
        i = int(self._message[row])
        self._rejects.setdefault(i, Reject(i, reason, path))

    def relevant(self, bad: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the bad rows count: all."""
        return bad


def whole_messages(
    columns: dict[str, pa.Array],
    identities: list[bytes | None],
    message: npt.NDArray[np.int32],
    rejects: dict[int, Reject],
) -> Decoded:
    """Return the rows of the messages that are not refused.

    Args:
        columns: DECODED_SCHEMA by name.
        identities: per row.
        message: int32 per row.
        rejects: by message; those with too many rows are added.
    """
    for i in np.flatnonzero(np.bincount(message, minlength=1) > MOST_ROWS).tolist():
        rejects.setdefault(i, Reject(i, Reason.TOO_MANY_ROWS))
    return without_messages(columns, identities, message, rejects)


def without_messages(
    columns: dict[str, pa.Array],
    identities: list[bytes | None],
    message: npt.NDArray[np.int32],
    rejects: dict[int, Reject],
) -> Decoded:
    """Return the rows of the messages that are not refused; see whole_messages."""
    batch = pa.RecordBatch.from_arrays([columns[f.name] for f in DECODED_SCHEMA], schema=DECODED_SCHEMA)
    if not rejects:
        return Decoded(batch, identities, message)
    good = ~np.isin(message, np.fromiter(rejects, np.int32, len(rejects)))
    kept = [identity for identity, ok in zip(identities, good.tolist(), strict=True) if ok]
    return Decoded(batch.filter(pa.array(good)), kept, message[good])
