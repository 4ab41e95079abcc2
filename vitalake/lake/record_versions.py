"""Versions that are neither counters nor times, and what is published of them: a number that keeps a record's order.

A warehouse may give anything that counts up: the number of a transaction, by which all rows of a load rank in its
order, or by mistake a record number. A counter says how often a record was changed, and a time is one of its sender's:
both are published as they are. Any other number is published with noise that is keyed by the record, so large that only
the order of the record's own versions is left of it; behind counters and times, as a number that outgrew them would be.
What lies between two versions of a record is multiplied by a factor of the record.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitalake.lake.record_noise import Names, Noise, RecordNoise

MOST_COUNTED = 9_999
"""Changes of one record; a number beyond it is a number of something else."""

SINCE_US, UNTIL_US = 978_307_200_000_000, 4_102_444_800_000_000
"""2001 and 2100: versions that are times, in microseconds since 1970."""

BEHIND = 1 << 60
MOST = 1 << 62
"""Numbers from here on are one: no version of a record is known to be later than another."""

SPREAD, MOST_SPREAD = 1 << 36, 4096.0
"""Numbers up to which what lies between two versions of a record is multiplied, and by how much at most."""


class RecordVersions:
    """Makes what is published of versions, with one secret; used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._noise = RecordNoise(secret, b"version")

    def __call__(self, versions: pa.Array, names: Names, *, of: str) -> pa.Array:
        """Return the versions; those that are neither counters nor times as numbers that rank within their record.

        Args:
            versions: int64.
            names: of the record each is of.
            of: dataset and column.
        """
        numbers: npt.NDArray[np.int64] = versions.fill_null(0).to_numpy(zero_copy_only=False)
        at = np.flatnonzero(~fits(numbers))
        if not len(at):
            return versions
        noise = self._noise(of, [name.take(pa.array(at)) for name in names()])
        made = numbers.copy()
        made[at] = BEHIND + (noise[:, 0] % np.uint64(BEHIND)).astype(np.int64)
        made[at] += _apart(np.clip(numbers[at], 0, MOST), noise[:, 1])
        mask = versions.is_null().to_numpy(zero_copy_only=False) if versions.null_count else None
        return pa.array(made, pa.int64(), mask=mask)


def _apart(numbers: npt.NDArray[np.int64], noise: Noise) -> npt.NDArray[np.int64]:
    """Return numbers in their order; those below 2³⁶, and so what lies between them, times a factor of their record."""
    low = np.minimum(numbers, SPREAD)
    more: npt.NDArray[np.int64] = (low * (MOST_SPREAD ** (noise / 2.0**64) - 1)).astype(np.int64)
    return numbers + more


def fits(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which versions are counters or times."""
    fit: npt.NDArray[np.bool_] = (numbers >= 0) & (numbers <= MOST_COUNTED)
    return fit | ((numbers >= SINCE_US) & (numbers < UNTIL_US))
