"""Versions that are neither counters nor times, and what is published of them: a number that keeps a record's order.

A warehouse may give anything that counts up: the number of a transaction, by which all rows of a load rank in its
order, or by mistake a record number. A counter says how often a record was changed, and a time is one of its sender's:
both are published as they are. Any other number is published with noise that is keyed by the record, so large that only
the order of the record's own versions is left of it; behind counters and times, as a number that outgrew them would be.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MOST_COUNTED = 9_999
"""Changes of one record; a number beyond it is a number of something else."""

SINCE_US, UNTIL_US = 978_307_200_000_000, 4_102_444_800_000_000
"""2001 and 2100: versions that are times, in microseconds since 1970."""

BEHIND = 1 << 60
MOST = 1 << 62
"""Numbers from here on are one: no version of a record is known to be later than another."""


class RecordVersions:
    """Makes what is published of versions, with one secret; used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"version\0noise", "sha256")

    def __call__(self, versions: pa.Array, names: pa.Array) -> pa.Array:
        """Return the versions; those that are neither counters nor times as numbers that rank within their record.

        Args:
            versions: int64.
            names: of the record each is of, text or bytes, in a dictionary or plain.
        """
        numbers: npt.NDArray[np.int64] = versions.fill_null(0).to_numpy(zero_copy_only=False)
        at = np.flatnonzero(~fits(numbers))
        if not len(at):
            return versions
        encoded = names.take(pa.array(at))
        encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
        noise = np.array([*map(self._noise, encoded.dictionary.to_pylist()), 0], np.int64)
        index = encoded.indices.fill_null(len(noise) - 1).to_numpy(zero_copy_only=False)
        made = numbers.copy()
        made[at] = BEHIND + noise[index] + np.clip(numbers[at], 0, MOST)
        mask = versions.is_null().to_numpy(zero_copy_only=False) if versions.null_count else None
        return pa.array(made, pa.int64(), mask=mask)

    def _noise(self, name: str | bytes | None) -> int:
        text = name if isinstance(name, bytes) else (name or "").encode()
        return int.from_bytes(hashlib.blake2b(text, key=self._key, digest_size=8).digest()) % BEHIND


def fits(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which versions are counters or times."""
    fit: npt.NDArray[np.bool_] = (numbers >= 0) & (numbers <= MOST_COUNTED)
    return fit | ((numbers >= SINCE_US) & (numbers < UNTIL_US))
