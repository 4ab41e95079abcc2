"""Latency histograms that can be added up: the number of rows by latency, in geometric buckets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

BUCKETS_PER_DOUBLING = 8
"""A bucket is 9 % wide, so its middle is at most 4.5 % off. From a millisecond to years there are 330 buckets."""

TOP_BUCKET = 42 * BUCKETS_PER_DOUBLING
"""The last bucket: everything slower (140 years, from a broken clock) counts here."""


def bucket_counts(milliseconds: npt.NDArray[np.float64]) -> dict[int, int]:
    """Return how many latencies fall into each bucket; below a millisecond, or negative, counts in the first one."""
    exponents = np.log2(np.maximum(milliseconds, 1.0)) * BUCKETS_PER_DOUBLING
    counts = np.bincount(np.minimum(exponents, TOP_BUCKET).astype(np.int64))
    return {int(bucket): int(counts[bucket]) for bucket in np.flatnonzero(counts)}


def merge(*histograms: Mapping[int, int]) -> dict[int, int]:
    """Return the sum of histograms."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def quantile(counts: Mapping[int, int], q: float) -> float:
    """Return the quantile ``q`` of the latencies in ms, within 4.5 %; nan for an empty histogram.

    Args:
        counts: as ``bucket_counts`` returns them.
        q: 0 to 1.
    """
    rank, passed = q * sum(counts.values()), 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed >= rank:
            return float(2 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING))
    return float("nan")
