"""Fingerprints: 128 bits over the contents of a row, to recognise exact re-sends."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_U64 = npt.NDArray[np.uint64]
_TEXTS = ("status", "comparator", "value_code", "value_text", "data_absent_reason", "patient_id", "encounter_id")
_ISSUED = 7
"""Salt of the time of issue. Look-backs on disk hold fingerprints, so the salts must not change."""


def fingerprints(ids: pa.Array, rows: pa.RecordBatch, value: npt.NDArray[np.float64], unit: pa.DictionaryArray) -> _U64:
    """Return fingerprints, shaped (n, 2), over observation_id, version, status, value, patient, stay and times.

    A sender without version numbers can correct the patient and the time of a value too, and correct them back; then
    only the time of issue distinguishes the last message from the first. The device is left out, because the same
    message can arrive through two gateways. If a row names no patient, its device is included in the patient's place.

    observation_id is a keyed hash already; the rest is mixed in by multiplication and shifts (splitmix64's finaliser).
    That distinguishes re-sends from corrections. It is no defence against an attacker, who could repeat an identifier
    anyway if they can send to the topic.

    An absent column adds nothing, so that a fingerprint does not depend on the other rows of the poll.
    """
    return _joined(ids, _rest(rows, value, unit))


def older_fingerprints(
    ids: pa.Array, rows: pa.RecordBatch, value: npt.NDArray[np.float64], unit: pa.DictionaryArray
) -> _U64:
    """Return the fingerprints that earlier releases gave to rows without ``issued`` in a poll where others had it.

    There the missing time counted as 0. Look-backs that those releases wrote hold such fingerprints.
    """
    without_issued = rows["issued_at"].is_null().to_numpy(zero_copy_only=False)
    as_zero = np.where(without_issued, _mix(np.zeros(1, np.uint64), _ISSUED), np.uint64(0))
    return _joined(ids, _rest(rows, value, unit) + as_zero)


def _joined(ids: pa.Array, rest: _U64) -> _U64:
    halves = np.frombuffer(ids.buffers()[2], np.uint64, count=2 * len(ids), offset=0).reshape(-1, 2)
    return np.column_stack([_mix(halves[:, 0] ^ rest, 3), _mix(halves[:, 1] ^ _mix(rest, 4), 5)])


def _rest(rows: pa.RecordBatch, value: npt.NDArray[np.float64], unit: pa.DictionaryArray) -> _U64:
    rest = _mix(rows["version"].to_numpy(zero_copy_only=False).astype(np.uint64), 1)
    rest += _mix(np.ascontiguousarray(np.where(np.isnan(value), 0.0, value) + 0.0).view(np.uint64), 2)
    rest += _mix(rows["effective_at"].cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64), 6)
    issued = rows["issued_at"]
    if issued.null_count < len(rows):
        hashes = _mix(pc.fill_null(issued.cast(pa.int64()), 0).to_numpy().view(np.uint64), _ISSUED)
        if issued.null_count:
            hashes[issued.is_null().to_numpy(zero_copy_only=False)] = 0
        rest += hashes
    rest += _text_hashes(unit, "unit")
    for name in _TEXTS:
        if rows[name].null_count < len(rows):
            rest += _text_hashes(rows[name], name)
    if rows["patient_id"].null_count:
        without_patient = rows["patient_id"].is_null()
        rest += _text_hashes(pc.if_else(without_patient, rows["device_id"].cast(pa.string()), None), "device_id")
    return rest


def _mix(x: _U64, salt: int) -> _U64:
    x = x + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _text_hashes(column: pa.Array, name: str) -> _U64:
    """Return a 64-bit hash per row, hashing each distinct text once; null gives 0."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    hashes = [
        int.from_bytes(hashlib.blake2b(f"{name}\0{text}".encode(), digest_size=8).digest())
        for text in encoded.dictionary.to_pylist()
    ]
    table = np.array([*hashes, 0], np.uint64)
    indices = encoded.indices.fill_null(len(hashes)) if encoded.null_count else encoded.indices
    return table[indices.to_numpy(zero_copy_only=False)]
