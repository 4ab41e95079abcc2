"""Versions, and what is published of them: 0, 1, and of all others a number that keeps a record's order.

A source may give anything that counts up: the number of a transaction, the moment of its last change, a running number
of its messages, or by mistake a record number. Each of them ranks all rows in the order in which the source wrote them.
How large a number is does not say which it is, so that none is published but 0 and 1, which most records have. Any
other is published with noise that is keyed by the record, so large that only the order of the record's own versions is
left of it; what lies between two of them is multiplied by a factor of the record.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitalake.lake.unlinkable.record_noise import Names, Noise, RecordNoise

BEHIND = 1 << 60
"""Published numbers from here on say an order only; those of negative versions up to its negative."""

MOST = 1 << 62
"""Numbers from here on are one: no version of a record is known to be later than another."""

STRETCHES = ((1 << 36, 0, 4096.0), (1 << 52, 0, 256.0), (1 << 55, 0, 64.0), (MOST, 10, 256.0))
"""What lies between two versions of a record is multiplied: up to which number, without how many of the last bits, and
by how much at most. Numbers that are counted; times in microseconds since 1970, until 2112; times as 17 digits; of
nanoseconds, of ticks of 100 ns and of all above a thousand are one."""


class RecordVersions:
    """Makes what is published of versions, with one secret; used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._noise = RecordNoise(secret, b"version")

    def __call__(self, versions: pa.Array, names: Names, *, of: str) -> pa.Array:
        """Return the versions; those that are neither 0 nor 1 as numbers that rank within their record.

        Args:
            versions: int64.
            names: of the record each is of.
            of: dataset and column.
        """
        numbers: npt.NDArray[np.int64] = versions.fill_null(0).to_numpy(zero_copy_only=False)
        at = np.flatnonzero(numbers >> 1)
        if not len(at):
            return versions
        noise = self._noise(of, [name.take(pa.array(at)) for name in names()])
        given = np.clip(numbers[at], -MOST, MOST)
        far = BEHIND + (noise[:, 0] % np.uint64(BEHIND)).astype(np.int64) + _apart(np.abs(given), noise[:, 1])
        made = numbers.copy()
        made[at] = np.where(given < 0, -far, far)
        mask = versions.is_null().to_numpy(zero_copy_only=False) if versions.null_count else None
        return pa.array(made, pa.int64(), mask=mask)

    def pairs(self, numbers: pa.Array, names: Names, *, of: str) -> pa.Array:
        """Return numbers without what ranks two records, but with their last bit; of none 0 and 1 are left.

        Args:
            numbers: int64, from 0 to 2³⁷.
            names: of the record each is of.
            of: dataset and column.
        """
        given: npt.NDArray[np.int64] = numbers.fill_null(0).to_numpy(zero_copy_only=False)
        there = numbers.is_valid().to_numpy(zero_copy_only=False)
        counted = pa.array(np.where(there, (given >> 1) + 2, 0))  # of nothing no noise is made
        made: npt.NDArray[np.int64] = self(counted, names, of=of).to_numpy()
        return pa.array(made << 1 | given & 1, pa.int64(), mask=~there if numbers.null_count else None)


def _apart(numbers: npt.NDArray[np.int64], noise: Noise) -> npt.NDArray[np.int64]:
    """Return numbers in their order; what lies between them times a factor of their record. Below 4·2⁶⁰."""
    share, made, begin = noise / 2.0**64, np.zeros(len(numbers), np.int64), 0
    for end, dropped, spread in STRETCHES:
        within = np.clip(numbers, begin, end) - begin >> dropped
        made += within + (within * (spread**share - 1)).astype(np.int64)
        begin = end
    return made


def versions_in_clear(versions: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which published versions are those of the source, and not 0 or 1: an earlier release wrote them."""
    numbers: npt.NDArray[np.int64] = versions.fill_null(0).to_numpy(zero_copy_only=False)
    clear: npt.NDArray[np.bool_] = (numbers >> 1 != 0) & (numbers < BEHIND) & (numbers > -BEHIND)
    return clear
