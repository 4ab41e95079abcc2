"""Recovered rows on their way into the care store, which has long taken the positions they came from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.core.poll import Outcome
from pipelines.intake.online_feed import OnlineFeed
from pipelines.reprocess.writing import ReprocessWriter


class ReprocessFeed:
    """Hands rows to the care store under the writer's positions.

    What a killed writer has handed over and never decided does not count as taken: the next one's batches are others.
    What is somebody's by where their device was is deleted, for it may be somebody else's by now; what comes twice
    else is recognised by its version.
    """

    def __init__(self, feed: OnlineFeed, writer: ReprocessWriter) -> None:
        """Take over from the writer before.

        Raises:
            ServiceUnavailable: the care store cannot be written.
        """
        self._feed, self._writer, self._count = feed, writer, 0
        feed.rewind({writer.part: writer.position}, others=True)

    def take(self, outcome: Outcome) -> None:
        """Take a poll's identified rows.

        Raises:
            ServiceUnavailable: care store or vault cannot be written.
        """
        if not outcome.rows.num_rows:
            return
        begin, count = self._writer.position + self._count, len(outcome.poll.values)
        own = replace(
            outcome.poll,
            parts=(self._writer.part,),
            part=np.zeros(count, np.int32),
            offset=np.arange(begin, begin + count, dtype=np.int64),
        )
        self._feed.take(replace(outcome, poll=own, refused=None))  # what is refused was told when it came
        self._count += count

    def known_patients(self, patients: list[str]) -> list[str]:
        """Return nobody: whose a message is that is refused again was told when it came."""
        return []

    def decided(self) -> None:
        """Take note that all that was taken is decided."""
        self._feed.settle({self._writer.part: self._writer.position})
        self._count = 0

    def close(self) -> None:
        """Close what was opened."""
        self._feed.close()
