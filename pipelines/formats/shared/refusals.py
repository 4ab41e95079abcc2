"""Collects the reasons for refused messages, and drops all rows of a refused message."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.shared.encoded import Encoded
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Reject

MOST_ROWS = 2_000
"""Rows that a message may have: a whole chart of panels fits. A megabyte of tiny components gives ten times that."""


class Refusals:
    """Collects why messages are refused; the first reason of a message counts."""

    def __init__(self, message: npt.NDArray[np.int32], rejects: dict[int, Reject]) -> None:
        self._message, self._rejects = message, rejects

    def mark(self, bad: npt.NDArray[np.bool_], reason: Reason, path: str) -> None:
        """Refuse the messages of the bad rows."""
        if bad.any():
            for i in self._message[self.relevant(bad)].tolist():
                self._rejects.setdefault(i, Reject(i, reason, path))

    def of(self, column: Encoded[Any]) -> None:
        """Refuse the messages with a refused element in a column.

        If a message has several, its first one gives the reason, whatever other messages of the poll hold.
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
        """Return which of the bad rows count; here all do."""
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
        rejects: by message; messages with too many rows are added.
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
    """Return the rows of the messages that are not refused, without a limit of rows; see whole_messages."""
    batch = pa.RecordBatch.from_arrays([columns[f.name] for f in DECODED_SCHEMA], schema=DECODED_SCHEMA)
    if not rejects:
        return Decoded(batch, identities, message)
    good = ~np.isin(message, np.fromiter(rejects, np.int32, len(rejects)))
    kept = [identity for identity, ok in zip(identities, good.tolist(), strict=True) if ok]
    return Decoded(batch.filter(pa.array(good)), kept, message[good])
