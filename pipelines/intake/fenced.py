"""Steps that write to the lake: the fence is read before everything that it protects, and goes to the writer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pipelines.core.takeover import ONE_SHARD, take_over
from pipelines.core.writer import SpanWriter
from pipelines.intake.steps import Steps
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import EVERYTHING, NOTHING, OnlineShare, PartId, Span
from vitalake.settings import Settings, StreamSettings


class FencedSteps(Steps):
    """Steps of one dataset, and the only maker of span writers.

    Rows are made with rules, keys and associations as they were read. A dataset's fence is raised when no row that was
    made with older ones may be decided. A fence that was read too late would let such rows pass, so it is read here,
    first, and nobody can hand another one to the writer.

    Attributes:
        fence: the dataset's fence before rules, keys and associations were read.
        online: which of the rows go to the online store.
    """

    def __init__(
        self,
        settings: Settings,
        stream: StreamSettings,
        lake: Lake,
        *,
        online: OnlineShare = EVERYTHING,
        purpose: str = "stream",
    ) -> None:
        """Read the fence, then keys, rules and vocabulary; see Steps.

        Raises:
            PrivacyError: keys or rules are not valid.
        """
        self._lake = lake
        self.fence = fence_of(lake)
        self.online = online if stream.care else NOTHING
        super().__init__(settings, stream, lake.dataset, online=online, purpose=purpose)

    @property
    def outdated(self) -> bool:
        """Return whether the fence was raised since: what these steps make is not decided any more."""
        return fence_of(self._lake) != self.fence

    def open_writer(
        self,
        *,
        job: str,
        shard: str,
        epoch: int,
        decoder: str,
        span_seconds: float,
        span_rows: int,
        late_seconds: float,
        positions: dict[PartId, int],
        watermarks: dict[PartId, int],
        stop: threading.Event,
        on_committed: Callable[[Span], None],
        on_paused: Callable[[str], object],
        before_decide: Callable[[], None] | None = None,
        begin_small: bool = False,
    ) -> SpanWriter:
        """Return a writer of what these steps make, behind the fence that was read before them; see SpanWriter."""
        return SpanWriter(
            self._lake,
            job=job,
            shard=shard,
            epoch=epoch,
            fence=self.fence,
            rules=self.plan.version,
            decoder=decoder,
            dead_letters=self.dead_letters,
            span_seconds=span_seconds,
            span_rows=span_rows,
            late_seconds=late_seconds,
            positions=positions,
            watermarks=watermarks,
            stop=stop,
            on_committed=on_committed,
            on_paused=on_paused,
            before_decide=before_decide,
            begin_small=begin_small,
            online=self.online,
        )

    def take_over(
        self,
        *,
        job: str,
        parts: Sequence[PartId],
        decoder: str,
        span_seconds: float,
        span_rows: int,
        late_seconds: float,
    ) -> SpanWriter:
        """Take over a job that does not read from Kafka; return a writer whose positions are where the lake goes on.

        Raises:
            SpanConflict: another process has begun one of the partitions meanwhile.
            ServiceUnavailable: the lake cannot be reached.
        """
        spans, dataset = self._lake.spans, self._lake.dataset.name
        epoch = take_over(self._lake, job=job, parts=parts)
        positions = spans.positions(dataset, parts)
        for part, position in positions.items():
            if position is None:
                spans.begin_at(dataset, {part: 0})
        return self.open_writer(
            job=job,
            shard=ONE_SHARD,
            epoch=epoch,
            decoder=decoder,
            span_seconds=span_seconds,
            span_rows=span_rows,
            late_seconds=late_seconds,
            positions={part: position or 0 for part, position in positions.items()},
            watermarks={},
            stop=threading.Event(),
            on_committed=lambda _: None,
            on_paused=lambda _: None,
        )


def fence_of(lake: Lake) -> int:
    """Return the fence of a lake's dataset; 0 for a lake without spans, in which looking makes no table."""
    return lake.spans.fence(lake.dataset.name) if lake.storage.holds_table("spans") else 0
