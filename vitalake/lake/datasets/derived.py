"""Derives columns from others of the same row, where the source does not give them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.datasets.dataset import Dataset


def derive(rows: pa.RecordBatch, dataset: Dataset) -> pa.RecordBatch:
    """Return the rows with derived columns filled in where they are null and the columns they derive from are there."""
    for column in dataset.columns:
        names = rows.schema.names
        if column.completed_years is None or not set(column.completed_years) <= set(names):
            continue
        years = completed_years(*(rows[name] for name in column.completed_years)).cast(column.type)
        if column.name in names:
            place = rows.schema.get_field_index(column.name)
            rows = rows.set_column(place, column.name, pc.coalesce(rows[column.name], years))
        else:
            rows = rows.append_column(column.name, years)
    return rows


def completed_years(born: pa.Array, at: pa.Array) -> pa.Array:
    """Return a person's age in completed years at a moment, in UTC; a birthday on 29 February counts on 1 March.

    Null where either is null, or where the moment lies before the birth.
    """
    day = born.cast(pa.date32())
    moment = at.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us")) if pa.types.is_timestamp(at.type) else at
    not_yet = pc.less(_month_and_day(moment), _month_and_day(day)).cast(pa.int64())
    years = pc.subtract(pc.subtract(pc.year(moment), pc.year(day)), not_yet)
    return pc.if_else(pc.less(years, 0), pa.scalar(None, pa.int64()), years)


def _month_and_day(times: pa.Array) -> pa.Array:
    return pc.add(pc.multiply(pc.month(times), 100), pc.day(times))
