"""When messages came, by the broker, and beginnings clamped to our clock where a sender's clock is ahead."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.open_letters import topic_of
from pipelines.core.poll import Outcome, Poll
from pipelines.formats.base import WAREHOUSE
from pipelines.intake.online_feed.destination import Destination
from pipelines.online_store.values import clamped_time
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings

CAME_AT = "came_at"
"""A column added to rows of this feed only: when the message came, by the broker."""

Clamp = Callable[[int, int | None], int]
"""From a stated beginning, and when its message came (None: it is not compared with our clock), to the one that counts;
microseconds since 1970 UTC."""


class Arrival:
    """Tells when messages of a dataset came."""

    def __init__(self, settings: Settings, dataset: Dataset, destination: Destination) -> None:
        self._settings, self._dataset, self._destination = settings, dataset, destination

    def with_came(self, outcome: Outcome) -> pa.RecordBatch:
        """Return rows with the time at which each message came, by the broker.

        It is null for rows of a warehouse and in a replay: their times are not compared with our clock.
        """
        came = pa.array(outcome.poll.broker_ms[outcome.message] * 1000, pa.int64())
        if outcome.poll.format == WAREHOUSE or self._destination.store.time.replay() is not None:
            came = pa.nulls(outcome.rows.num_rows, pa.int64())
        elif self._destination.again:
            sources = outcome.rows["source"].to_pylist()
            came = pc.if_else(pa.array([self._is_warehouse(source) for source in sources], pa.bool_()), None, came)
        return outcome.rows.append_column(CAME_AT, came)

    def _is_warehouse(self, source: str) -> bool:
        """Return whether rows in the lake were loaded from a warehouse, by the name that a load gives its source."""
        topic = topic_of(source)
        live = any(topic in job.topics for job in self._settings.jobs.values())
        return topic.endswith(f".{self._dataset.name}") and not live

    def clamp(self, poll: Poll) -> Clamp:
        """Return what clamps the beginnings that messages of a poll state."""
        return partial(self._clamped, ours=is_ours(poll))

    def _clamped(self, stated_us: int, came_us: int | None, *, ours: bool) -> int:
        """Return the stated beginning, clamped to our clock where the sender's is ahead: see clamped_time."""
        if came_us is None:
            return stated_us
        return clamped_time(stated_us, came_us, self._destination.store.time.now_us(), ours=ours)


def is_ours(poll: Poll) -> bool:
    """Return whether the times at which a poll's messages came are all by our own clock."""
    return poll.ours is not None and bool(poll.ours.all())
