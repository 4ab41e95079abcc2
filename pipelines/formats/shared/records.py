"""Rows of datasets in which nothing is measured: what they are called, and when they could be known."""

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
"""Device of a merge, before the number that was given up: who resolves to that number is who it was merged into."""

AGAINST_BROKER = ", record.timestamp"
"""Behind the path of a time that our clock would accept and the broker's does not: either of them may be wrong."""

BORN_IN, SEX_TOLD, PLACE_TOLD, OVER_TOLD, DIED_TOLD, ID_TOLD, CLASS_TOLD = BESIDE = (
    "born_in",
    "sex_told",
    "place_told",
    "over_told",
    "died_told",
    "id_told",
    "class_told",
)
"""Columns of rows beside the dataset's, that go no further than to the care store and the vault.

Of patients the year, or year and month, of birth, where the sender knows no day: the lake's column is a date, and no
day is made up. Of admissions the date of birth and the sex that their message tells. Of stays where the patient lies,
whether they are visits (OUTPATIENT), and that they are over where no end is told, or go on where one is; of beds that
were left, that the stay is over; of diagnoses, that they hold no more, or until which day, and the id of the Condition,
which stays when its code or stay is changed. Of patients and admissions that the patient has died: see
pipelines.online_store.facts.Person.
"""

GOES_ON = "no"
"""In the column OVER_TOLD: that the stay goes on, whatever discharge was told before."""

OUTPATIENT = "outpatient"
"""In the column CLASS_TOLD: the stay is a visit, or a series of them."""

Message = npt.NDArray[np.int32]


def record_batch(dataset: str, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return rows as the dataset's columns; what a row does not name is null.

    Left out are the columns that only the lake knows, and the name of a record that is a hash, made later of
    the row's identity.
    """
    declared = load_dataset(dataset)
    fields = [field for field in declared.schema if field.name not in (*PROVENANCE, declared.hashed)]
    fields += [pa.field(name, pa.string()) for name in BESIDE if any(row.get(name) for row in rows)]
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
    """Return rows of the messages that are not rejected."""
    kept = [i for i, of in enumerate(message) if of not in rejects]
    return Decoded(
        record_batch(dataset, [rows[i] for i in kept]),
        [identities[i] for i in kept],
        np.array([message[i] for i in kept], np.int32),
        [rejects[i] for i in sorted(rejects)],
        unfinished=True,
        stamped=True,
    )


class Records:
    """Finishes the rows of one dataset; one a lane."""

    def __init__(self, dataset: Dataset, *, key: bytes, max_future_seconds: float, min_effective_year: int) -> None:
        """Prepare.

        Args:
            dataset: where the rows go.
            key: of names that are hashed; never rotated.
            max_future_seconds: how far ahead of the broker's time a row may be effective.
            min_effective_year: rows effective before it are rejected.
        """
        self._dataset = dataset
        self._hash = hashlib.blake2b(key=key, digest_size=ID_BYTES)
        self._future_us = int(max_future_seconds * 1e6)
        self._earliest_us = int(np.datetime64(f"{min_effective_year:04d}-01-01", "us").astype(np.int64))

    def finish(
        self, decoded: Decoded, *, broker_ms: npt.NDArray[np.int64], now_us: int | None = None
    ) -> tuple[pa.RecordBatch, Message, list[Reject]]:
        """Return the rows that have their key and a time that can be, the message of each, and the rejects.

        Args:
            decoded: what a decoder made.
            broker_ms: int64 per message, the broker's timestamp.
            now_us: our own clock's, to say whose time is wrong; None: the row's.
        """
        rows, message = decoded.rows, decoded.message
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        names = {column.name for column in self._dataset.columns}
        if (hashed := self._dataset.hashed) and hashed not in columns:
            columns[hashed] = pa.array([self._named(identity) for identity in decoded.identities], pa.binary())
        if "available_at" in names:
            told, broker_us = columns["available_at"], broker_ms[message] * 1000
            columns["available_at"] = (
                given_or_ours(told, broker_us, stamped=True) if decoded.stamped else marked_or_ours(told, broker_us)
            )
        whole = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        rows, message, rejects = with_key(whole, message, self._dataset)
        return self._timely(rows, message, rejects, broker_ms, now_us)

    def told(self, told: Sequence[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, Mapping[str, Any]]]:
        """Return rows that go to the ward only, associations with the names that the lake would give them."""
        hashed = str(self._dataset.hashed)
        return [(i, {**row, hashed: self._named(row["identity"])} if "identity" in row else row) for i, row in told]

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
        late = sorted(set(message[bad].tolist()))
        path = f"{self._dataset.name}.{day_of}"
        own = bad if now_us is None else (at < self._earliest_us) | (at > now_us + self._future_us)
        theirs = set(message[own].tolist())
        rejects = [
            *rejects,
            *(
                Reject(i, Reason.IMPLAUSIBLE_TIME, path if i in theirs else path + AGAINST_BROKER, int(count[i]))
                for i in late
            ),
        ]
        good = ~np.isin(message, np.array(late, np.int32))
        return rows.filter(pa.array(good)), message[good], sorted(rejects, key=lambda reject: reject.message)
