"""Reduces the associations of a forgotten patient, so that no other patient gets the device's values of that time.

Without what stays, the time would belong to the device's previous patient if no message said that this one left. What
stays names neither the patient nor the stay nor the device. It cannot be traced to the patient, because the same
subject stands for all forgotten patients.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from governance.vault.sealed_rows import SUBJECT_BYTES
from vitalake.lake.datasets.dataset import IDENTIFYING, SUBJECT
from vitalake.lake.datasets.declared import load_dataset

NOBODY = bytes(SUBJECT_BYTES)
"""The subject of all forgotten patients; the vault never has a key for it."""

_SEALED = tuple(c.name for c in load_dataset("device_association").columns if c.data_class in IDENTIFYING)


def vacated(rows: pa.Table) -> pa.Table:
    """Return restricted rows of associations without their patient, stay and device id."""
    for name in (SUBJECT.name, *_SEALED):
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        if name == SUBJECT.name:
            column = pa.array([NOBODY] * rows.num_rows, pa.binary())
            column = column.dictionary_encode().cast(field.type) if pa.types.is_dictionary(field.type) else column
        else:
            column = pa.nulls(rows.num_rows, field.type)
        rows = rows.set_column(place, field, column)
    return rows


def vacated_of(rows: pa.RecordBatch, form: pa.Schema, device_keys: pa.Array) -> pa.RecordBatch:
    """Return identified rows of associations as the restricted zone keeps them for forgotten patients.

    Args:
        rows: identified.
        form: schema of the rows that the sealer makes.
        device_keys: keyed hashes of the devices of the rows.
    """
    given = dict(zip(rows.schema.names, rows.columns, strict=True)) | {"device_key": device_keys}
    columns = []
    for field in form:
        column = given.get(field.name)
        if field.name == SUBJECT.name:
            column = pa.array([NOBODY] * rows.num_rows, pa.binary())
        if column is None or field.name in _SEALED:
            column = pa.nulls(rows.num_rows, pa.binary() if field.name in _SEALED else field.type)
        plain = pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
        columns.append(plain if plain.type == field.type else _cast(plain, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=form)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)
