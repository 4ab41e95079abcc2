"""Recovered rows on their way into the care store, which has long taken the positions they came from."""

from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np

from pipelines.care import CareFeed
from pipelines.poll import Outcome
from vitalake.lake.spans import PartId


class CareAgain:
    """Hands rows to the care store under positions of their own.

    The partition is a new one each time, so that what a killed replay has handed over does not count as taken: the
    next one's batches are others. What comes twice is recognised by its version.
    """

    def __init__(self, feed: CareFeed) -> None:
        self._feed, self._part, self._next = feed, PartId("again", uuid.uuid4().hex[:22], 0), 0

    def take(self, outcome: Outcome) -> None:
        """Take a poll's identified rows.

        Raises:
            ServiceUnavailable: care store or vault cannot be written.
        """
        count = len(outcome.poll.values)
        own = replace(
            outcome.poll,
            parts=(self._part,),
            part=np.zeros(count, np.int32),
            offset=np.arange(self._next, self._next + count, dtype=np.int64),
        )
        self._feed.take(replace(outcome, poll=own))
        self._next += count

    def decided(self) -> None:
        """Take note that all that was taken is decided."""
        self._feed.settle({self._part: self._next})

    def close(self) -> None:
        """Close what was opened."""
        self._feed.close()
