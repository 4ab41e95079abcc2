"""Latency histograms that can be added up: how many rows took how long, in geometric buckets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

BUCKETS_PER_DOUBLING = 8
"""A bucket is 9 % wide, so that its middle is at most 4.5 % off; a millisecond to years are 330 buckets."""

TOP_BUCKET = 42 * BUCKETS_PER_DOUBLING
"""Everything slower (140 years, a broken clock) counts as this."""


def bucket_counts(milliseconds: npt.NDArray[np.float64]) -> dict[int, int]:
    """Return how many of the latencies fall into each bucket; under a millisecond, or negative, is the first one."""
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
    """Return the latency in ms that a share ``q`` of all does not exceed, within 4.5 %; nan for an empty histogram.

    Args:
        counts: as ``bucket_counts`` gives them.
        q: 0 to 1.
    """
    rank, passed = q * sum(counts.values()), 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed >= rank:
            return float(2 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING))
    return float("nan")
