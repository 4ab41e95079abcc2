"""What rejected messages were about: it is not in the lake, but what was known before it is not of now any more."""

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
class Refused:
    """Rows of rejected messages, without what they measured.

    Attributes:
        rows: of the columns of ``observation`` what the care store takes, identified; the value is one of
            ``pipelines.online_store.values`` NO_VALUE, TOO_LOW, TOO_HIGH.
        message: int per row, index of its message; of what is told late, a number that is its own, below zero where
            the message was not rejected but says by a sign that there is no value.
    """

    rows: pa.RecordBatch
    message: npt.NDArray[np.int32]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Refused:
        """Return the chosen rows."""
        return Refused(self.rows.filter(pa.array(chosen)), self.message[chosen])

    def newest(self, count: int) -> Refused:
        """Return the last rows."""
        begin = max(0, len(self.message) - count)
        return Refused(self.rows.slice(begin), self.message[begin:])


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
    said: npt.NDArray[np.float64],
    effective_us: npt.NDArray[np.int64],
    available_us: npt.NDArray[np.int64],
    message: npt.NDArray[np.int32],
) -> Refused:
    """Return what is kept of the rows of rejected messages.

    Args:
        rows: decoded.
        ids: observation_id of each: a later version that holds takes the place of what was refused.
        said: what stands in the place of each value.
        effective_us: of each a time that can be.
        available_us: as well.
        message: of each.
    """
    columns = {name: rows[name].cast(pa.string()) for name in _TEXTS} | {
        "observation_id": ids,
        "version": rows["version"],
        "value": pa.array(said, pa.float64()),
        "value_code": pa.nulls(len(rows), pa.string()),
        "effective_at": pa.array(effective_us).cast(_MOMENT),
        "available_at": pa.array(available_us).cast(_MOMENT),
    }
    return Refused(pa.RecordBatch.from_pydict(columns, schema=SCHEMA), message)


def refused_of_conformed(
    rows: pa.RecordBatch, message: npt.NDArray[np.int32], bad: npt.NDArray[np.bool_], before: Refused | None
) -> Refused:
    """Return rows that were conformed before their message was rejected, and those of ``before``."""
    mine, message = rows.filter(pa.array(bad)), message[bad]
    times = (mine[name].cast(pa.int64()).to_numpy(zero_copy_only=False) for name in ("effective_at", "available_at"))
    effective_us, available_us = times
    said = np.full(len(message), NO_VALUE)
    return joined(before, refused_of(mine, mine["observation_id"], said, effective_us, available_us, message))


class Unread(NamedTuple):
    """What a message that was not decoded may have measured of somebody.

    Attributes:
        message: index of the message.
        patient, device: one or the other.
        code: LOINC code of the vocabulary; empty: none is known, and it may be a vital sign.
        at_us: of when; None: that cannot be read, and it is of when it came.
        name: sixteen bytes, the same whenever the message is read again.
    """

    message: int
    patient: str | None
    device: str | None
    code: str
    at_us: int | None
    name: bytes


_DAY_US = 86_400_000_000


def with_unread(refused: Refused | None, told: Sequence[Unread], broker_ms: npt.NDArray[np.int64]) -> Refused | None:
    """Return the rows, and one for each code of each patient or device that a message names which was not decoded.

    Args:
        refused: rows of those that were.
        told: of the others; a time that is not of the day before the message came is not believed.
        broker_ms: of each message.
    """
    if not told:
        return refused
    message = np.array([one.message for one in told], np.int32)
    count, came = len(told), broker_ms[message] * 1000
    at = np.array([us if one.at_us is None else one.at_us for one, us in zip(told, came.tolist(), strict=True)])
    moment = pa.array(np.where((at <= came) & (at > came - _DAY_US), at, came)).cast(_MOMENT)
    columns: dict[str, pa.Array] = {name: pa.array([""] * count, pa.string()) for name in (*_TEXTS, "value_code")} | {
        "patient_id": pa.array([one.patient for one in told], pa.string()),
        "device_id": pa.array([one.device for one in told], pa.string()),
        "code": pa.array([one.code for one in told], pa.string()),
        "status": pa.array(["final"] * count, pa.string()),
        "observation_id": pa.array([one.name for one in told], pa.binary()),
        "version": pa.array(np.zeros(count, np.int64)),
        "value": pa.array(np.full(count, NO_VALUE)),
        "effective_at": moment,
        "available_at": pa.array(came).cast(_MOMENT),
    }
    return joined(refused, Refused(pa.RecordBatch.from_pydict(columns, schema=SCHEMA), message))


def joined(before: Refused | None, more: Refused) -> Refused:
    """Return both."""
    if before is None:
        return more
    both = pa.Table.from_batches([before.rows, more.rows]).combine_chunks().to_batches()
    return Refused(both[0] if both else more.rows, np.concatenate([before.message, more.message]))


def with_patients(refused: Refused, patients: pa.Array) -> Refused:
    """Return the rows as these patients', where they name none."""
    column = pc.coalesce(refused.rows["patient_id"], patients)
    index = refused.rows.schema.get_field_index("patient_id")
    return Refused(refused.rows.set_column(index, "patient_id", column), refused.message)
