"""How versions are published: 0 and 1 as they are, any other as a number that keeps the order within its record.

A source may use anything that counts up as a version: the number of a transaction, the time of the last change, a
running number of its messages, or by mistake a record number. Each of these shows the order in which the source wrote
all its rows, and the size of a number does not show which of them it is. So only 0 and 1, which most records have, are
published as they are. Any other version is published with noise that is keyed by the record and so large that only the
order of the record's own versions is left; the distance between two of them is multiplied by a factor of the record.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitalake.lake.unlinkable.record_noise import Names, Noise, RecordNoise

BEHIND = 1 << 60
"""Published numbers from here on show only an order; for negative versions, those up to its negative."""

MOST = 1 << 62
"""Versions from here on are treated as equal, so that none of a record counts as later than another."""

STRETCHES = ((1 << 36, 0, 4096.0), (1 << 52, 0, 256.0), (1 << 55, 0, 64.0), (MOST, 10, 256.0))
"""How the distance between two versions of a record is scaled, by range: the end of the range, the number of low bits
that are dropped, and the largest factor. The ranges hold counted numbers; microseconds since 1970, until 2112; times
of 17 digits; and nanoseconds, ticks of 100 ns and everything above, of which a thousand count as one."""


class RecordVersions:
    """Makes the published form of versions, with one secret; to be used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._noise = RecordNoise(secret, b"version")

    def __call__(self, versions: pa.Array, names: Names, *, of: str) -> pa.Array:
        """Return the versions; any except 0 and 1 become numbers that show an order only within their record.

        Args:
            versions: int64.
            names: gives the columns that name each row's record.
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
        """Return numbers that show an order only within their record and keep their last bit; also 0 and 1 are changed.

        Args:
            numbers: int64, from 0 to 2³⁷.
            names: gives the columns that name each row's record.
            of: dataset and column.
        """
        given: npt.NDArray[np.int64] = numbers.fill_null(0).to_numpy(zero_copy_only=False)
        there = numbers.is_valid().to_numpy(zero_copy_only=False)
        counted = pa.array(np.where(there, (given >> 1) + 2, 0))  # a null needs no noise
        made: npt.NDArray[np.int64] = self(counted, names, of=of).to_numpy()
        return pa.array(made << 1 | given & 1, pa.int64(), mask=~there if numbers.null_count else None)


def _apart(numbers: npt.NDArray[np.int64], noise: Noise) -> npt.NDArray[np.int64]:
    """Return numbers in the same order, with distances multiplied by a factor of the record; below 4·2⁶⁰."""
    share, made, begin = noise / 2.0**64, np.zeros(len(numbers), np.int64), 0
    for end, dropped, spread in STRETCHES:
        within = np.clip(numbers, begin, end) - begin >> dropped
        made += within + (within * (spread**share - 1)).astype(np.int64)
        begin = end
    return made


def versions_in_clear(versions: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which published versions are in clear and not 0 or 1: an earlier release wrote them."""
    numbers: npt.NDArray[np.int64] = versions.fill_null(0).to_numpy(zero_copy_only=False)
    clear: npt.NDArray[np.bool_] = (numbers >> 1 != 0) & (numbers < BEHIND) & (numbers > -BEHIND)
    return clear
