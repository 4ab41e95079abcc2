"""Latency histograms: what they tell is what the latencies were."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vitalake.lake.commits.latency import bucket_counts, merge, quantile

YEAR_MS = 365.25 * 86_400_000


@pytest.mark.parametrize("scale", [2.0, 150.0, 3_600_000.0, 3 * YEAR_MS])
@pytest.mark.parametrize("q", [0.5, 0.99])
def test_quantiles_are_within_five_percent_from_milliseconds_to_years(scale: float, q: float) -> None:
    latencies = np.random.default_rng(3).lognormal(np.log(scale), 0.5, 20_000).clip(1.0)
    exact = float(np.quantile(latencies, q, method="inverted_cdf"))
    assert quantile(bucket_counts(latencies), q) == pytest.approx(exact, rel=0.05)


def test_merged_histograms_equal_the_histogram_of_all() -> None:
    latencies = np.random.default_rng(4).exponential(200.0, 5_000)
    parts = [bucket_counts(part) for part in np.array_split(latencies, 7)]
    assert merge(*parts) == bucket_counts(latencies)


def test_clock_skew_and_absurd_ages_are_counted_not_lost() -> None:
    counts = bucket_counts(np.array([-5_000.0, 0.0, 0.4, 1e300]))
    assert sum(counts.values()) == 4
    assert quantile(counts, 0.5) < 1.1


def test_nothing_measured_has_no_quantile() -> None:
    assert bucket_counts(np.zeros(0)) == {}
    assert math.isnan(quantile({}, 0.5))
