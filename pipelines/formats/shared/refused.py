"""Rows of rejected messages, without their values.

They do not go to the lake. The ward needs them: a value from before a rejected message is no longer the current one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.online_store.values import NO_VALUE

_MOMENT = pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class RefusedRows:
    """Rows of rejected messages, without what they measured.

    Attributes:
        rows: the columns of ``observation`` that the online store needs, identified; the value is NO_VALUE, TOO_LOW or
            TOO_HIGH of ``pipelines.online_store.values``.
        message: int per row, the index of its message. Rows that are reported late have a serial number instead; it is
            negative if the message was not rejected but reports a missing value.
    """

    rows: pa.RecordBatch
    message: npt.NDArray[np.int32]

    def where(self, chosen: npt.NDArray[np.bool_]) -> RefusedRows:
        """Return the chosen rows."""
        return RefusedRows(self.rows.filter(pa.array(chosen)), self.message[chosen])

    def newest(self, count: int) -> RefusedRows:
        """Return the last ``count`` rows."""
        begin = max(0, len(self.message) - count)
        return RefusedRows(self.rows.slice(begin), self.message[begin:])


SCHEMA = pa.schema(
    [
        ("patient_id", pa.string()),
        ("device_id", pa.string()),
        ("code", pa.string()),
        ("status", pa.string()),
        ("observation_id", pa.binary()),
        ("version", pa.int64()),
        ("value", pa.float64()),
        ("value_code", pa.string()),
        ("effective_at", _MOMENT),
        ("available_at", _MOMENT),
    ]
)
_TEXTS = ("patient_id", "device_id", "code", "status")


def refused_of(
    rows: pa.RecordBatch,
    ids: pa.Array,
    signs: npt.NDArray[np.float64],
    effective_us: npt.NDArray[np.int64],
    available_us: npt.NDArray[np.int64],
    message: npt.NDArray[np.int32],
) -> RefusedRows:
    """Return the rows of rejected messages without their values.

    Args:
        rows: decoded rows.
        ids: observation_id of each row: a later valid version replaces the refused row.
        signs: per row NO_VALUE, TOO_LOW or TOO_HIGH, in the place of the value.
        effective_us: per row a plausible time of measurement.
        available_us: per row a plausible time of issue.
        message: per row, the index of its message.
    """
    columns = {name: rows[name].cast(pa.string()) for name in _TEXTS} | {
        "observation_id": ids,
        "version": rows["version"],
        "value": pa.array(signs, pa.float64()),
        "value_code": pa.nulls(len(rows), pa.string()),
        "effective_at": pa.array(effective_us).cast(_MOMENT),
        "available_at": pa.array(available_us).cast(_MOMENT),
    }
    return RefusedRows(pa.RecordBatch.from_pydict(columns, schema=SCHEMA), message)


def refused_of_conformed(
    rows: pa.RecordBatch, message: npt.NDArray[np.int32], bad: npt.NDArray[np.bool_], before: RefusedRows | None
) -> RefusedRows:
    """Return the rows of ``before``, and rows whose message was rejected after they were conformed."""
    rejected, message = rows.filter(pa.array(bad)), message[bad]
    times = (
        rejected[name].cast(pa.int64()).to_numpy(zero_copy_only=False) for name in ("effective_at", "available_at")
    )
    effective_us, available_us = times
    signs = np.full(len(message), NO_VALUE)
    return joined(before, refused_of(rejected, rejected["observation_id"], signs, effective_us, available_us, message))


class Unread(NamedTuple):
    """A value that a message may have measured although it could not be decoded.

    Attributes:
        message: index of the message.
        patient, device: one of them.
        code: LOINC code of the vocabulary; empty: the code is not known, and it may be a vital sign.
        at_us: time of measurement; None: it cannot be read, and the time of arrival counts.
        name: sixteen bytes that identify the row, the same each time the message is read.
    """

    message: int
    patient: str | None
    device: str | None
    code: str
    at_us: int | None
    name: bytes


_DAY_US = 86_400_000_000


def with_unread(
    refused: RefusedRows | None, unread: Sequence[Unread], broker_ms: npt.NDArray[np.int64]
) -> RefusedRows | None:
    """Add a row for each code of each patient or device in messages that could not be decoded.

    Args:
        refused: rows of messages that were decoded and rejected.
        unread: values of messages that were not decoded. The time of arrival replaces a time that is not within the day
            before the message came.
        broker_ms: per message, the broker's timestamp.
    """
    if not unread:
        return refused
    message = np.array([one.message for one in unread], np.int32)
    count, came = len(unread), broker_ms[message] * 1000
    at = np.array([us if one.at_us is None else one.at_us for one, us in zip(unread, came.tolist(), strict=True)])
    moment = pa.array(np.where((at <= came) & (at > came - _DAY_US), at, came)).cast(_MOMENT)
    columns: dict[str, pa.Array] = {name: pa.array([""] * count, pa.string()) for name in (*_TEXTS, "value_code")} | {
        "patient_id": pa.array([one.patient for one in unread], pa.string()),
        "device_id": pa.array([one.device for one in unread], pa.string()),
        "code": pa.array([one.code for one in unread], pa.string()),
        "status": pa.array(["final"] * count, pa.string()),
        "observation_id": pa.array([one.name for one in unread], pa.binary()),
        "version": pa.array(np.zeros(count, np.int64)),
        "value": pa.array(np.full(count, NO_VALUE)),
        "effective_at": moment,
        "available_at": pa.array(came).cast(_MOMENT),
    }
    return joined(refused, RefusedRows(pa.RecordBatch.from_pydict(columns, schema=SCHEMA), message))


def joined(before: RefusedRows | None, more: RefusedRows) -> RefusedRows:
    """Return the rows of both."""
    if before is None:
        return more
    both = pa.Table.from_batches([before.rows, more.rows]).combine_chunks().to_batches()
    return RefusedRows(both[0] if both else more.rows, np.concatenate([before.message, more.message]))


def with_patients(refused: RefusedRows, patients: pa.Array) -> RefusedRows:
    """Return the rows with these patients filled in where a row names none."""
    column = pc.coalesce(refused.rows["patient_id"], patients)
    index = refused.rows.schema.get_field_index("patient_id")
    return RefusedRows(refused.rows.set_column(index, "patient_id", column), refused.message)
