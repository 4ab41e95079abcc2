"""Digests of messages: which each is, whose, and what it says. The hashes are keyed with a secret of the home."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.history.columns import IDENTITY
from vitalake.lake.datasets.dataset import Dataset

ENTRY = np.dtype(
    [
        *(("key", "<u8"), ("content", "<u8"), ("changed", "u1"), ("replaced", "<u8")),
        *(("record", "<u8"), ("owned", "<u8"), ("version", "<i8"), ("given", "<i8")),
    ]
)
"""57 bytes per message: hashes of its key and version and of all its columns; whether it replaces another message, and
the content hash of that one; a hash of its record, whatever the version, and one of record and patient together; the
version that the query gave it, the highest one if it has several; and the version that the load gave it, or COUNTED.

``owned`` is 0 if the message has no number or no patient, or if the patient is part of the key: then the key says whose
it is. The record is 0 only in an entry that an earlier release wrote."""

UNVERSIONED, UNKNOWN_VERSION = -(2**63), -(2**63) + 1
"""In the place of a version: the query gave none; and, in an entry of an earlier release, nobody knows whether it did.
Both are below every version."""

COUNTED, PERHAPS_GIVEN = -1, -2
"""In the place of the version that a load gave: it gave none, for the source counts versions; and, as in an entry of an
earlier release, nobody knows whether it did."""

EARLIER_ENTRIES = tuple(
    np.dtype([(name, ENTRY[name]) for name in names])
    for names in (
        ("key", "content", "changed", "replaced"),
        ("key", "content", "changed", "replaced", "record", "owned"),
    )
)
"""Entries of earlier releases. The first kept records and owners in arrays of their own, of rows loaded or not."""

Hashes = npt.NDArray[np.uint64]
Entries = npt.NDArray[np.void]


class Digests:
    """Makes entries of rows. The hashes are keyed with a secret of the home: without it they reveal nothing."""

    def __init__(self, dataset: Dataset, secret: bytes) -> None:
        self._secret = hashlib.blake2b(b"history", key=secret, digest_size=32).digest()
        self._measures = dataset.measures
        self._key = (*IDENTITY, "version") if dataset.measures else dataset.key
        self._nameless = ("patient_id", "code", "effective_at", "version")
        patient = [column.name for column in dataset.columns if column.data_class == "patient-identifier"]
        number = IDENTITY if dataset.measures else tuple(name for name in dataset.key if name != "version")
        self._number = number
        self._of_claim = (*patient, *(IDENTITY[1:] if dataset.measures else number))
        self._has_owners = bool(patient) and patient[0] not in number

    def of(self, table: pa.Table, starts: npt.NDArray[np.int64]) -> Entries:
        """Return the entry of each message of a table, which has the dataset's types."""
        entries = np.zeros(len(starts), ENTRY)
        entries["version"] = UNVERSIONED
        if not len(starts):
            return entries
        if "version" in table.schema.names:
            # A null is rejected later. It must not make the query one without versions.
            versions = table["version"].combine_chunks().fill_null(UNKNOWN_VERSION).to_numpy(zero_copy_only=False)
            entries["version"], entries["given"] = np.maximum.reduceat(versions, starts), COUNTED
        hashes = {name: self._hashes(name, table[name]) for name in table.schema.names}
        place = np.arange(table.num_rows) - np.repeat(starts, np.diff(np.r_[starts, table.num_rows]))
        rows = mix(_sum(hashes, table.schema.names) + mix(place.astype(np.uint64)))
        entries["content"] = np.add.reduceat(rows, starts)
        keys, records = _sum(hashes, self._key)[starts], _record(hashes, self._number, starts)
        if self._measures:  # an observation without an identifier is identified by its other columns
            unnamed = np.ones(table.num_rows, np.bool_)
            if IDENTITY[1] in hashes:
                unnamed = table[IDENTITY[1]].combine_chunks().is_null().to_numpy(zero_copy_only=False)
            keys = np.where(unnamed[starts], _sum(hashes, self._nameless)[starts], keys)
            records = np.where(unnamed[starts], _record(hashes, self._nameless[:-1], starts), records)
        entries["key"], entries["record"] = keys, records
        if self._has_owners and all(name in hashes for name in self._of_claim):
            given = np.logical_and.reduce([self._is_given(name, hashes[name][starts]) for name in self._of_claim])
            entries["owned"] = np.where(given, mix(records ^ mix(hashes[self._of_claim[0]][starts])), 0)
        return entries

    def _is_given(self, name: str, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return which values are neither null nor empty; with an empty number there is no record."""
        empty = [self._text(name.encode(), text) for text in (b"", b"b''")]
        return ~np.isin(hashes, np.array([0, *empty], np.uint64))

    def _hashes(self, name: str, column: pa.ChunkedArray) -> Hashes:
        """Return a 64-bit hash of each value; null has a fixed one."""
        kind = column.type
        salt = self._text(name.encode(), b"")
        array = column.combine_chunks()
        if pa.types.is_floating(kind):
            floats = array.cast(pa.float64())
            bits = floats.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
        elif pa.types.is_integer(kind) or pa.types.is_temporal(kind):
            bits = array.view(_integer(kind)).cast(pa.int64(), safe=False).fill_null(0)
            bits = bits.to_numpy(zero_copy_only=False).view(np.uint64)
        else:
            encoded = array if pa.types.is_dictionary(kind) else array.dictionary_encode()
            values = [self._text(name.encode(), str(value).encode()) for value in encoded.dictionary.to_pylist()]
            with_null = np.array([*values, 0], np.uint64)
            return with_null[encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)]
        hashes = mix(bits + np.uint64(salt))
        return np.where(array.is_null().to_numpy(zero_copy_only=False), np.uint64(0), hashes)

    def _text(self, name: bytes, value: bytes) -> int:
        digest = hashlib.blake2b(name + b"\0" + value, key=self._secret, digest_size=8).digest()
        return int.from_bytes(digest)


def _integer(kind: pa.DataType) -> pa.DataType:
    return kind if pa.types.is_integer(kind) else pa.int32() if kind.bit_width == 32 else pa.int64()


def _sum(hashes: dict[str, Hashes], names: tuple[str, ...] | list[str]) -> Hashes:
    total = np.zeros(len(next(iter(hashes.values()))), np.uint64)
    for number, name in enumerate(names):
        if name in hashes:
            total += mix(hashes[name] + np.uint64(number))
    return total


def _record(hashes: dict[str, Hashes], names: tuple[str, ...], starts: npt.NDArray[np.int64]) -> Hashes:
    """Return a hash of columns of each message; a null, whose hash is 0, counts like a column that is not there."""
    record = mix(np.zeros(len(starts), np.uint64))
    for name in names:
        if name in hashes:
            part = hashes[name][starts]
            record = np.where(part == 0, record, mix(record + part))
    return np.maximum(record, np.uint64(1))  # 0 is an entry of an earlier release


def mix(x: Hashes) -> Hashes:
    """Mix by the finaliser of splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
