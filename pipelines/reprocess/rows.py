"""Decodes rejected rows of a warehouse: their JSON becomes again what the query had returned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from pipelines.formats.base import WAREHOUSE
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Reject
from pipelines.history.columns import IDENTITY
from pipelines.history.rows import decoded_rows, record_rows
from vitalake.lake.datasets.declared import load_dataset

_ROWS = msgspec.json.Decoder(list[dict[str, Any]])


class RowsDecoder:
    """Decodes the messages of a history job, as RowTexts has written them."""

    name = WAREHOUSE
    version = "1"

    def __init__(self, dataset: str) -> None:
        self._dataset = load_dataset(dataset)
        fields = {field.name: field.type for field in self._dataset.schema}
        if self._dataset.measures:
            fields |= {field.name: _plain(field.type) for field in DECODED_SCHEMA}
            fields |= dict.fromkeys(IDENTITY, pa.string())
        self._fields = fields

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises because of a message's contents."""
        rows: list[dict[str, Any]] = []
        message: list[int] = []
        starts: list[int] = []
        rejects: list[Reject] = []
        empty: list[int] = []
        for i, value in enumerate(values):
            try:
                typed_rows = [self._typed(row) for row in _ROWS.decode(value or b"")]
            except (msgspec.DecodeError, ValueError, TypeError):
                rejects.append(Reject(i, Reason.NOT_JSON))
                continue
            if not typed_rows:
                empty.append(i)
                continue
            starts.append(len(rows))
            message.append(i)
            rows += typed_rows
        schema = pa.schema([(name, kind) for name, kind in self._fields.items() if any(name in row for row in rows)])
        table = pa.Table.from_pylist(rows, schema=schema)
        return _of_messages(self._decoded(table, starts), message, rejects, empty)

    def _decoded(self, table: pa.Table, starts: list[int]) -> Decoded:
        if self._dataset.measures:
            return decoded_rows(table, np.array(starts, np.int64))
        return record_rows(table, self._dataset)

    def _typed(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: _value(value, self._fields[name]) for name, value in row.items() if name in self._fields}


def _of_messages(decoded: Decoded, message: list[int], rejects: list[Reject], empty: list[int]) -> Decoded:
    """Return the decoded rows with the indices of all messages; the decoder has only counted those with valid JSON."""
    number = np.array(message, np.int32)
    renamed = [Reject(int(number[r.message]), r.reason, r.path, r.rows) for r in decoded.rejects]
    found = number[decoded.message] if len(decoded.message) else decoded.message
    rejected = sorted([*rejects, *renamed], key=lambda reject: reject.message)
    return Decoded(decoded.rows, decoded.identities, found, rejected, empty=empty)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _value(value: Any, kind: pa.DataType) -> Any:
    """Convert a JSON value to a column's type.

    Raises:
        ValueError, TypeError: it cannot be converted.
    """
    if value is None:
        return None
    return next((make(value) for fits, make in _MAKERS if fits(kind)), value)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_MAKERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_timestamp, _moment),
    (pa.types.is_date, date.fromisoformat),
    (pa.types.is_floating, float),
    (pa.types.is_integer, int),
    (pa.types.is_string, str),
)
