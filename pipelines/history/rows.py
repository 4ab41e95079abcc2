"""Turns rows of a query into what a decoder returns, so that both lanes take the same steps from here on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.formats.shared.keyed import absent
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Reject
from pipelines.history.columns import IDENTITY, places
from vitalake.errors import InputError
from vitalake.lake.datasets.dataset import ASSOCIATION, Dataset
from vitalake.lake.datasets.declared import load_dataset

_NEEDED = (
    ("patient_id", Reason.NO_SUBJECT, "Observation.subject"),
    ("code", Reason.NO_CODE, "Observation.code"),
    ("effective_at", Reason.NO_TIME, "Observation.effective[x]"),
    ("status", Reason.WRONG_SHAPE, "Observation.status"),
)
_CLOSED = (
    ("status", Reason.BAD_STATUS, "Observation.status"),
    ("comparator", Reason.WRONG_SHAPE, "Observation.valueQuantity.comparator"),
)
"""Columns that change what a value means: with a text there that is not in the list, the value cannot be used."""

VALUES = ("value", "value_code", "value_text", "data_absent_reason")


class RowTexts(Sequence[bytes | None]):
    """The rows of each message as JSON, made on request, because only dead letters need them."""

    def __init__(self, rows: pa.Table, starts: npt.NDArray[np.int64]) -> None:
        self._rows, self._starts = rows, starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> bytes:  # type: ignore[override]
        end = self._starts[i + 1] if i + 1 < len(self._starts) else self._rows.num_rows
        return msgspec.json.encode(self._rows.slice(self._starts[i], end - self._starts[i]).to_pylist())


def whole_messages(batches: Iterator[pa.RecordBatch], *, rows: int, panels: bool = True) -> Iterator[pa.Table]:
    """Yield tables of about so many rows; rows of one message, which come one after the other, stay in one table."""
    buffered: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        buffered.append(batch)
        count += batch.num_rows
        if count >= rows:
            table = pa.Table.from_batches(buffered).combine_chunks()
            last = int(message_starts(table, panels=panels)[-1])  # the last message can go on in the next batch
            if last:
                yield table.slice(0, last)
            buffered, count = table.slice(last).to_batches(), table.num_rows - last
    if count:
        yield pa.Table.from_batches(buffered).combine_chunks()


def message_starts(table: pa.Table, *, panels: bool = True) -> npt.NDArray[np.int64]:
    """Return where each message begins: successive rows with one identity are one message, others one each.

    Args:
        table: the rows.
        panels: whether there are such messages: in observations. Other datasets can have a column of that name, too.
    """
    if not panels or IDENTITY[1] not in table.schema.names:
        return np.arange(table.num_rows)
    begins = np.ones(table.num_rows, np.bool_)
    same = np.ones(max(table.num_rows - 1, 0), np.bool_)
    for name in IDENTITY if IDENTITY[0] in table.schema.names else IDENTITY[1:]:
        column = table[name].combine_chunks()
        same &= pc.fill_null(pc.equal(column[1:], column[:-1]), False).to_numpy(zero_copy_only=False)
    begins[1:] = ~same
    return np.flatnonzero(begins)


def decoded_rows(table: pa.Table, starts: npt.NDArray[np.int64]) -> Decoded:
    """Return the rows of a query for the dataset ``observation``.

    Args:
        table: columns of DECODED_SCHEMA by name (absent ones are null) and identity_system, identity_value. Times
            without a zone are UTC.
        starts: see message_starts.

    Raises:
        InputError: a column cannot be cast to the dataset's type.
    """
    columns = {field.name: _column(table, field) for field in DECODED_SCHEMA}
    message = (np.searchsorted(starts, np.arange(table.num_rows), side="right") - 1).astype(np.int32)
    rejects: dict[int, Reject] = {}
    empty = np.ones(table.num_rows, np.bool_)
    for name in VALUES:
        empty &= columns[name].is_null().to_numpy(zero_copy_only=False)
    missing = [(absent(columns[name]), why, path) for name, why, path in _NEEDED]
    declared = load_dataset("observation")
    unfit = [(_not_among(columns[name], declared.column(name).values), why, path) for name, why, path in _CLOSED]
    for bad, why, path in [*missing, (empty, Reason.NO_VALUE, "Observation.value[x]"), *unfit]:
        for i in np.unique(message[bad]).tolist():
            rejects.setdefault(i, Reject(i, why, path))
    identities = [
        None if value is None else f"{len(system or '')}|{system or ''}|{value}".encode()
        for system, value in zip(
            *(_column(table, pa.field(name, pa.string())).to_pylist() for name in IDENTITY), strict=True
        )
    ]
    batch = pa.RecordBatch.from_arrays(list(columns.values()), schema=DECODED_SCHEMA)
    if rejects:
        good = ~np.isin(message, np.fromiter(rejects, np.int32, len(rejects)))
        batch, message = batch.filter(pa.array(good)), message[good]
        identities = [identity for identity, ok in zip(identities, good.tolist(), strict=True) if ok]
    return Decoded(batch, identities, message, [rejects[i] for i in sorted(rejects)])


def _not_among(column: pa.DictionaryArray, values: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    inside = pc.is_in(column, value_set=pa.array(values, pa.string()))
    bad: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False) & ~inside.to_numpy(
        zero_copy_only=False
    )
    return bad


def typed(table: pa.Table, dataset: Dataset) -> pa.Table:
    """Return the columns that a query returns for a dataset, cast to the dataset's types.

    Raises:
        InputError: a column cannot be cast, or the dataset does not have it.
    """
    fields = {field.name: field for field in dataset.schema}
    if dataset.measures:
        own = {name: pa.field(name, pa.string()) for name in (*IDENTITY, "panel_code")}
        fields |= own | {"issued_at": DECODED_SCHEMA.field("issued_at")}
    if unknown := [place for place, name in enumerate(table.schema.names) if name not in fields]:
        several = len(unknown) > 1
        raise InputError(
            f"Query returns {f'{len(unknown):,} columns' if several else 'a column'} that its dataset does not have",
            where=places(unknown, len(table.schema.names)),
            remedy="Leave them out, or name each as in the reference of the datasets.",
        )
    return pa.table({name: _column(table, fields[name]) for name in table.schema.names})


def record_rows(table: pa.Table, dataset: Dataset) -> Decoded:
    """Return the rows of a query for any other dataset; every row is a message.

    Args:
        table: the dataset's columns by name; absent ones are null, times without a zone are UTC. In a dataset whose
            key is a hash, the key column has the warehouse's own name of the record, which is hashed.
        dataset: where the rows go.

    Raises:
        InputError: a column cannot be cast to the dataset's type.
    """
    columns = {field.name: _column(table, field) for field in dataset.schema if field.name in table.schema.names}
    message = np.arange(table.num_rows, dtype=np.int32)
    named = columns.pop(dataset.hashed, None) if dataset.hashed else None
    if named is None:
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        return Decoded(batch, [None] * table.num_rows, message)
    columns.setdefault("available_at", pa.nulls(table.num_rows, dataset.schema.field("available_at").type))
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    prefix = b"sql|" if dataset.kind == ASSOCIATION else f"sql|{dataset.name}|".encode()
    # Records with an empty name would all be one record.
    identities = [prefix + name if name and name.strip() else None for name in named.to_pylist()]
    return Decoded(batch, identities, message, unfinished=True)


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column has only one spelling as text; see columns.with_texts."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    textual = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    return bool(textual or pa.types.is_integer(kind))


def _column(table: pa.Table, field: pa.Field) -> pa.Array:
    if field.name not in table.schema.names:
        if field.name in ("version", "effective_offset_minutes"):
            return pa.repeat(pa.scalar(0, field.type), table.num_rows)
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name].combine_chunks()
    texts = pa.types.is_dictionary(field.type) or pa.types.is_string(field.type)
    try:
        if texts and not _is_text(column.type):  # an identifier must not be spelled in more than one way
            raise pa.ArrowInvalid
        if pa.types.is_dictionary(field.type):
            return column.cast(pa.string()).dictionary_encode()
        if pa.types.is_timestamp(field.type) and column.type.tz is None:
            return pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC")
        return column.cast(field.type)
    except (pa.ArrowException, AttributeError):
        raise InputError(
            f"Query returns a column that is not of type {'string' if texts else field.type}",
            where=field.name,
            remedy="Cast it in the query.",
        ) from None
