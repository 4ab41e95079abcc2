"""Hands recovered rows to the online store, which has already taken the positions at which they were read first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.core.poll import Outcome
from pipelines.intake.online_feed.feed import OnlineFeed
from pipelines.reprocess.writing import ReprocessWriter


class ReprocessFeed:
    """Hands rows to the online store under the positions of the reprocessing writer.

    Rows that a killed writer has handed over and not decided do not count as taken, because the next writer forms other
    batches. They are deleted: the device can belong to another patient by now, or the message can have been discarded.
    """

    def __init__(self, feed: OnlineFeed, writer: ReprocessWriter) -> None:
        """Take back what the writer before has handed over and not decided.

        Raises:
            ServiceUnavailable: the online store cannot be written.
        """
        self._feed, self._writer, self._count = feed, writer, 0
        feed.reprocess(writer.part, writer.position, epoch=writer.epoch)

    def take(self, outcome: Outcome) -> None:
        """Take a poll's identified rows.

        Raises:
            ServiceUnavailable: online store or vault cannot be written.
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
        self._feed.take(replace(outcome, poll=own, refused=None))  # rejected messages were reported when they came
        self._count += count

    def known_patients(self, patients: list[str]) -> list[str]:
        """Return no patients: the patients of rejected messages were reported when these came."""
        return []

    def decided(self) -> None:
        """Note that everything taken so far is decided."""
        self._feed.settle({self._writer.part: self._writer.position})
        self._count = 0

    def close(self) -> None:
        """Close what was opened."""
        self._feed.close()
