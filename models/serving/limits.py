"""Rate limits, so that one user cannot keep the others waiting."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from models.serving.problems import Problem

MOST_KEYS = 10_000
"""How many keys are remembered. The least recently used one is forgotten first; its bucket is full again by then."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rate:
    """A token bucket for each key: so many requests a second, with a burst."""

    def __init__(self, per_second: float, *, burst: int, seconds: Callable[[], float] = time.monotonic) -> None:
        """Prepare.

        Args:
            per_second: how fast a bucket fills.
            burst: how much it holds.
            seconds: a clock that only runs forward.
        """
        self._per_second, self._burst, self._seconds = per_second, burst, seconds
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, what: str) -> None:
        """Take one request from a key's bucket.

        Args:
            key: the user, or user and address.
            what: the sentence of the problem, written by us.

        Raises:
            Problem: the bucket is empty; the problem says when to try again.
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
