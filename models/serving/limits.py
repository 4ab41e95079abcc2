"""How often one of many may ask, so that the others are answered too."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from models.serving.problems import Problem

MOST_KEYS = 10_000
"""Remembered; the one that asked longest ago is forgotten first, and its allowance is full again by then."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rate:
    """So many a second for each key, and a few at once."""

    def __init__(self, per_second: float, *, burst: int, seconds: Callable[[], float] = time.monotonic) -> None:
        """Prepare.

        Args:
            per_second: how fast the allowance fills.
            burst: how much it holds.
            seconds: a clock that only runs forward.
        """
        self._per_second, self._burst, self._seconds = per_second, burst, seconds
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, what: str) -> None:
        """Take one of a key's allowance.

        Args:
            key: whose.
            what: a sentence of ours that says what there is too much of.

        Raises:
            Problem: nothing is left; it says when there is again.
        """
        now = self._seconds()
        bucket = self._buckets.pop(key, None) or _Bucket(float(self._burst), now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_second)
        bucket.at = now
        self._buckets[key] = bucket
        if len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        if bucket.left < 1:
            wait = math.ceil((1 - bucket.left) / self._per_second)
            raise Problem(429, f"{what} Try again in {wait} s.", retry_after=wait)
        bucket.left -= 1
