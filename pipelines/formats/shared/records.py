"""Finishes rows of datasets without measurements: their hashed names, and when they became available."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.shared.keyed import with_key
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Decoded, Reject
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.unlinkable.own_times import given_or_ours, marked_or_ours

ID_BYTES = 16
PROVENANCE = ("ingested_at", "source", "source_position")
MERGED = "patient:"
"""Prefix of ``device_id`` in rows of a merge, before the patient number that was given up.

Such a row says that the old number now means the patient that it was merged into.
"""

AGAINST_BROKER = ", record.timestamp"
"""Suffix of the path if our clock accepts a time and the broker's timestamp does not: either clock may be wrong."""

BORN_IN, SEX_TOLD, PLACE_TOLD, OVER_TOLD, DIED_TOLD, ID_TOLD, CLASS_TOLD = EXTRA_COLUMNS = (
    "born_in",
    "sex_told",
    "place_told",
    "over_told",
    "died_told",
    "id_told",
    "class_told",
)
"""Extra columns that are not the dataset's; they go only to the online store and the vault.

- born_in: year, or year and month, of birth if the sender knows no day (the lake's column is a date, and no day is made
  up); of an admission, the date of birth in its message.
- sex_told: the sex in an admission's message.
- place_told: where the patient of a stay lies.
- over_told: that a stay is over although the message has no end, or goes on (GOES_ON) although it has one; of a
  diagnosis, that it no longer applies, or until which day it did.
- died_told: that the patient has died; see pipelines.online_store.facts.Person.
- id_told: the id of a Condition, which stays the same when its code or stay is changed.
- class_told: that a stay is a visit (OUTPATIENT).
"""

GOES_ON = "no"
"""Value of the column OVER_TOLD: the stay goes on, whatever discharge was reported before."""

OUTPATIENT = "outpatient"
"""Value of the column CLASS_TOLD: the stay is a visit, or a series of visits."""

Message = npt.NDArray[np.int32]


def record_batch(dataset: str, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return rows as a batch of the dataset's columns; a column that a row does not set is null.

    The batch lacks the columns that only the lake fills, and the hashed name of a record: ``Records`` makes that from
    the row's identity.
    """
    declared = load_dataset(dataset)
    fields = [field for field in declared.schema if field.name not in (*PROVENANCE, declared.hashed)]
    fields += [pa.field(name, pa.string()) for name in EXTRA_COLUMNS if any(row.get(name) for row in rows)]
    return pa.RecordBatch.from_arrays(
        [pa.array([row.get(field.name) for row in rows], field.type) for field in fields], schema=pa.schema(fields)
    )


def decoded_records(
    dataset: str,
    rows: Sequence[Mapping[str, Any]],
    identities: Sequence[bytes | None],
    message: Sequence[int],
    rejects: Mapping[int, Reject],
) -> Decoded:
    """Return the rows of the messages that are not rejected, to be finished by ``Records``."""
    kept = [row for row, i in enumerate(message) if i not in rejects]
    return Decoded(
        record_batch(dataset, [rows[row] for row in kept]),
        [identities[row] for row in kept],
        np.array([message[row] for row in kept], np.int32),
        [rejects[i] for i in sorted(rejects)],
        unfinished=True,
        stamped=True,
    )


class Records:
    """Finishes the rows of one dataset; each lane has its own."""

    def __init__(self, dataset: Dataset, *, key: bytes, max_future_seconds: float, min_effective_year: int) -> None:
        """Prepare.

        Args:
            dataset: the dataset of the rows.
            key: key of hashed names; never rotated.
            max_future_seconds: rows effective further ahead of the broker's time are rejected.
            min_effective_year: rows effective before this year are rejected.
        """
        self._dataset = dataset
        self._hash = hashlib.blake2b(key=key, digest_size=ID_BYTES)
        self._future_us = int(max_future_seconds * 1e6)
        self._earliest_us = int(np.datetime64(f"{min_effective_year:04d}-01-01", "us").astype(np.int64))

    def finish(
        self, decoded: Decoded, *, broker_ms: npt.NDArray[np.int64], now_us: int | None = None
    ) -> tuple[pa.RecordBatch, Message, list[Reject]]:
        """Return the rows that have their key and a plausible time, the message of each, and the rejects.

        Args:
            decoded: a decoder's result.
            broker_ms: int64 per message, the broker's timestamp.
            now_us: our clock's time, to decide whether the row's or the broker's time is wrong; None: the row's is.
        """
        rows, message = decoded.rows, decoded.message
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        names = {column.name for column in self._dataset.columns}
        if (hashed := self._dataset.hashed) and hashed not in columns:
            columns[hashed] = pa.array([self._named(identity) for identity in decoded.identities], pa.binary())
        if "available_at" in names:
            given, broker_us = columns["available_at"], broker_ms[message] * 1000
            columns["available_at"] = (
                given_or_ours(given, broker_us, stamped=True) if decoded.stamped else marked_or_ours(given, broker_us)
            )
        whole = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        rows, message, rejects = with_key(whole, message, self._dataset)
        return self._timely(rows, message, rejects, broker_ms, now_us)

    def online_rows(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, Mapping[str, Any]]]:
        """Return rows that go to the online store only; associations get the hashed names that the lake would give."""
        hashed = str(self._dataset.hashed)
        return [(i, {**row, hashed: self._named(row["identity"])} if "identity" in row else row) for i, row in rows]

    def _named(self, identity: bytes | None) -> bytes | None:
        if identity is None:
            return None
        state = self._hash.copy()
        state.update(identity)
        return state.digest()

    def _timely(
        self,
        rows: pa.RecordBatch,
        message: Message,
        rejects: list[Reject],
        broker_ms: npt.NDArray[np.int64],
        now_us: int | None,
    ) -> tuple[pa.RecordBatch, Message, list[Reject]]:
        day_of = self._dataset.day_of
        if day_of is None or not rows.num_rows:
            return rows, message, rejects
        at = rows[day_of].cast(pa.int64()).to_numpy()
        bad = (at < self._earliest_us) | (at > broker_ms[message] * 1000 + self._future_us)
        if not bad.any():
            return rows, message, rejects
        count = np.bincount(message)
        rejected = sorted(set(message[bad].tolist()))
        path = f"{self._dataset.name}.{day_of}"
        surely_bad = bad if now_us is None else (at < self._earliest_us) | (at > now_us + self._future_us)
        by_our_clock = set(message[surely_bad].tolist())
        rejects = [
            *rejects,
            *(
                Reject(i, Reason.IMPLAUSIBLE_TIME, path if i in by_our_clock else path + AGAINST_BROKER, int(count[i]))
                for i in rejected
            ),
        ]
        good = ~np.isin(message, np.array(rejected, np.int32))
        return rows.filter(pa.array(good)), message[good], sorted(rejects, key=lambda reject: reject.message)
