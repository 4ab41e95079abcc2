"""Columns as a warehouse's driver gives them, made plain: what would be read wrongly is refused by its name."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from vitalake.errors import InputError

_EPOCH = date(1970, 1, 1)
_FIRST, _LAST = (date.min - _EPOCH).days, (date.max - _EPOCH).days


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch without the driver's own types.

    PostgreSQL's ``numeric`` comes as text (exact, and cast to what the dataset needs later), ``uuid`` becomes text,
    ``char(n)`` loses its padding. Nothing is guessed: infinite times, money and the like are refused.

    Raises:
        InputError: a column cannot be read rightly, or two have one name; named without its values.
    """
    names = batch.schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError("Query gives a column twice", where=", ".join(twice), remedy="Name each of them once.")
    columns = [_plain(column, field) for column, field in zip(batch.columns, batch.schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, names=names)


def _plain(column: pa.Array, field: pa.Field) -> pa.Array:
    kind = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if isinstance(column, pa.ExtensionArray):
        if isinstance(column.type, pa.UuidType):
            return pa.array((v and str(v) for v in column.to_pylist()), pa.string())
        if kind != "numeric" and not isinstance(column.type, pa.JsonType):
            raise _refused(field.name, kind or column.type.extension_name)
        return column.storage
    if kind == "money":  # arrives as a number of cents
        raise _refused(field.name, kind)
    if kind == "bpchar":
        return pc.utf8_rtrim(column, " ")
    if pa.types.is_timestamp(column.type):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
        _check_finite(column.view(pa.int64()), field.name, units_a_day=86_400 * per_second)
    elif pa.types.is_date32(column.type):
        _check_finite(column.view(pa.int32()), field.name, units_a_day=1)
    return column


def _check_finite(numbers: pa.Array, name: str, *, units_a_day: int) -> None:
    """Raise if a time lies outside the calendar: infinity arrives as a number like any other."""
    ends = pc.min_max(numbers).as_py()
    if ends["min"] is not None and not (_FIRST <= ends["min"] // units_a_day and ends["max"] // units_a_day <= _LAST):
        raise InputError(
            "Query gives times outside the years 1 to 9999 (infinity?)",
            where=name,
            remedy="Leave them out or make them null in the query.",
        )


def _refused(name: str, kind: str) -> InputError:
    return InputError(
        f"Query gives a column of a type that is not read ({kind})", where=name, remedy="Cast it in the query."
    )
