"""One shard of a job in a worker: its consumer, its writer, and the five steps between them."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from governance.belonging import introduce
from governance.keyservice import KeyRevoked
from pipelines.core.kafka import Shard, ShardConsumer
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.core.takeover import refuse_taken
from pipelines.core.writer import SpanWriter
from pipelines.formats.registry import make_decoder
from pipelines.formats.shared.result import Decoder
from pipelines.intake.fenced import FencedSteps
from pipelines.live.positions import resolve_positions
from pipelines.live.status import Status
from vitalake import clock
from vitalake.errors import ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.lake.commits.seen import read_seen
from vitalake.lake.commits.span import PartId, Span
from vitalake.settings import Settings

_log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""Time between two heartbeats in the online store, which tell a quiet ward from one whose stream has stopped."""

KEY_SECONDS = 0.5
"""Wait between tries while patients' keys are not available."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """The options of a lane that the command line gives.

    Attributes:
        start: where partitions begin for which the lake has no position: earliest, latest, or a time in ms.
        accept_loss: record a gap in the log instead of stopping.
        until_idle_seconds: end when nothing has arrived for so long; None: never.
    """

    start: Literal["earliest", "latest"] | int = "earliest"
    accept_loss: bool = False
    until_idle_seconds: float | None = None


class Lane:
    """The state of a shard in one process; used by one thread at a time."""

    def __init__(
        self, settings: Settings, job: str, shard: Shard, options: StreamOptions, stop: threading.Event
    ) -> None:
        """Read the configuration, and begin nothing that other processes would notice: see begin."""
        self.settings, self.job, self.shard, self.options, self.stop = settings, job, shard, options, stop
        self.stream = settings.jobs[job]
        self.name = f"{job}/{shard}"
        self.status = Status(shard=self.name)
        self.lake = Home(settings).lake(self.stream.dataset)
        self.lake.check_writable()  # first: a home of an earlier release can lack a key too, and has to be upgraded
        self._read_configuration()
        self.consumer: ShardConsumer | None = None
        self.writer: SpanWriter | None = None
        self._listed_at = self._heartbeat_at = 0.0
        self._last_arrival: float | None = None  # kept over bundles, which can be shorter than until_idle_seconds

    def _read_configuration(self) -> None:
        """Read the fence, rules, keys, vocabulary and profiles."""
        self.steps = FencedSteps(self.settings, self.stream, self.lake)
        self.decoders: dict[str, Decoder] = {
            name: make_decoder(name, dataset=self.stream.dataset, stream=self.stream, settings=self.settings)
            for name in sorted(set(self.stream.topics.values()))
        }

    # -- beginning and ending ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make sure that reading continues at the lake's positions; called at the start of every bundle."""
        if self.writer is not None and time.monotonic() - self._listed_at > self.stream.relist_seconds:
            self._relist()
        if self.writer is None:
            self._open()
        assert self.consumer is not None and self.writer is not None
        lake_positions = self.lake.spans.positions(self.lake.dataset.name, self.consumer.parts)
        if lake_positions != self.writer.positions or not self._consumer_is_at_writer():
            self.reset()
            self._open()

    def _consumer_is_at_writer(self) -> bool:
        """Return whether the consumer continues at the positions that were decided last."""
        assert self.consumer is not None and self.writer is not None
        return self.consumer.next == self.writer.positions

    def _open(self) -> None:
        self.consumer = consumer = ShardConsumer(self.settings, self.job, self.shard)
        parts = consumer.list_parts()
        spans = self.lake.spans
        refuse_taken(self.lake, self.job)
        spans.claim(job=self.job, dataset=self.lake.dataset.name, topic_ids={part.topic_id for part in consumer.listed})
        epoch = spans.begin_epoch(job=self.job, shard=str(self.shard))
        introduce(self.settings, self.steps.keys, self.steps.vault)
        since = clock.now_us() - int(self.stream.lookback_seconds * 1e6)
        if self.steps.outdated:
            self.steps.close()
            self._read_configuration()
        recent = self.lake.roll_forward(parts, since_us=since)
        positions = resolve_positions(
            self.lake, consumer, parts, job=self.job, shard=str(self.shard), epoch=epoch, options=self.options
        )
        self._fill_lookback(recent)
        if self.steps.online_feed is not None:
            stored_since = clock.now_us() - int(self.settings.care.hours * 3_600e6)
            stored = spans.recent(parts, dataset=self.lake.dataset.name, since_us=stored_since)
            self.steps.online_feed.report_incomplete(self.name, stored)
            if self.steps.attributor is not None:
                self.steps.online_feed.rewind(positions)
        self.writer = self.steps.open_writer(
            job=self.job,
            shard=str(self.shard),
            epoch=epoch,
            decoder=",".join(f"{d.name}/{d.version}" for d in self.decoders.values()),
            span_seconds=self.stream.span_seconds,
            span_rows=self.stream.span_rows,
            late_seconds=self.stream.late_seconds,
            positions=dict(positions),
            watermarks=_watermarks(recent),
            stop=self.stop,
            before_decide=consumer.check_topics,
            on_committed=self._committed,
            on_paused=partial(self.status.pause, "storage"),
            begin_small=True,
        )
        consumer.start(positions)
        self._listed_at = time.monotonic()
        self.status.open = True
        _log.info("lane open", extra={"shard": self.name, "count": len(parts)})

    def _committed(self, span: Span) -> None:
        """Note a span that was added to all tables; called in the committer's thread."""
        self.status.committed(span)
        if self.steps.online_feed is not None:
            self.steps.online_feed.settle({part.id: part.end for part in span.parts})

    def _fill_lookback(self, recent: list[Span]) -> None:
        """Fill the look-back from the lake; rows of other shards' partitions in the same spans do no harm."""
        self.steps.lookback.clear()
        since = clock.now_us() - int(self.stream.lookback_seconds * 1e6)
        young = [span for span in recent if span.decided_us >= since]
        for seen in read_seen(self.lake.storage, young, entries=self.steps.lookback.entries):
            self.steps.lookback.admit(seen.prints, now=time.monotonic())
            if seen.older:
                self.steps.older_until = time.monotonic() + 2 * self.stream.lookback_seconds

    def _relist(self) -> None:
        """Start again if partitions were added.

        Raises:
            TopicRemade: a topic was deleted and created again.
        """
        assert self.consumer is not None and self.writer is not None
        self._listed_at = time.monotonic()
        self.consumer.check_topics()
        parts = self.consumer.list_parts()
        if set(parts) != set(self.consumer.parts):
            _log.info("partitions changed", extra={"shard": self.name, "count": len(parts)})
            self.reset()

    def reset(self) -> None:
        """Discard what is not decided; the next bundle starts from the lake's positions."""
        if self.writer:
            self.writer.close()
        if self.consumer:
            self.consumer.close()
        self.writer, self.consumer = None, None

    # -- the five steps ------------------------------------------------------------------------------------------

    def read(self, seconds: float) -> Iterator[Poll | None]:
        """Yield polls for at most so long; yield None when nothing has arrived, so that the writer can cut by age."""
        assert self.consumer is not None
        end = time.monotonic() + seconds
        if self._last_arrival is None:
            self._last_arrival = time.monotonic()
        idle = self.options.until_idle_seconds
        while time.monotonic() < end and not self.stop.is_set():
            self._send_heartbeat()
            arrived = False
            for poll in self.consumer.poll():
                arrived = True
                yield poll
            now = time.monotonic()
            self._last_arrival = now if arrived or self.consumer.down else self._last_arrival
            if not arrived:
                self.status.note_consumer(self.consumer.lag(), down=self.consumer.down)
                yield None
                if idle is not None and now - self._last_arrival >= idle:
                    self.status.idle = True
                    return

    def _send_heartbeat(self) -> None:
        if self.steps.online_feed is not None and time.monotonic() - self._heartbeat_at >= BEAT_SECONDS:
            self._heartbeat_at = time.monotonic()
            self.steps.online_feed.beat(self.name)

    def leave(self) -> None:
        """Note in the online store that the lane ends on purpose, so that it does not count as one that crashed."""
        if self.steps.online_feed is not None:
            self.steps.online_feed.beat(self.name, ended=True)

    def decode(self, poll: Poll) -> DecodedPoll:
        """Return the poll with its decoded rows and undecodable messages."""
        failpoint("decode")
        return DecodedPoll(poll, self.decoders[poll.format].decode(poll.values))

    def conform(self, item: DecodedPoll) -> Outcome:
        """Return the plausible rows, in the vocabulary's units."""
        return self.steps.conform(item)

    def mask(self, outcome: Outcome) -> Outcome:
        """Return the new rows as they may be published; waits while patients' keys are not available.

        Raises:
            KeyRevoked, ServiceUnavailable: the keys are still not available, and the lane has to stop.
        """
        while True:
            try:
                masked = self.steps.mask(outcome)
            except (KeyRevoked, ServiceUnavailable) as error:
                if self.status.pause("keys", f"{error.what}; waiting, goes on by itself"):
                    extra = {"what": error.what, "where": error.where, "remedy": error.remedy}
                    _log.warning("paused", extra={**extra, "shard": self.name})
                if self.stop.wait(KEY_SECONDS):
                    raise
            else:
                self.status.resume("keys")
                failpoint("masked")
                return masked

    def write(self, outcome: Outcome | None) -> None:
        """Add the rows to the open span, and cut it if it is due."""
        assert self.writer is not None
        if outcome is not None:
            self.writer.take(outcome)
            self.status.taken(len(outcome.poll.values), outcome.rejects)
        self.writer.cut_if_due()

    def finish(self) -> None:
        """Cut the open span, and wait until it is decided and added; called at the end of every bundle."""
        assert self.writer is not None
        self.writer.cut()
        self.writer.flush()
        gc.collect()  # the worker has switched the automatic collector off; a bundle leaves few objects in cycles


def _watermarks(recent: list[Span]) -> dict[PartId, int]:
    marks: dict[PartId, int] = {}
    for span in recent:
        for part in span.parts:
            if part.max_effective_us is not None:
                marks[part.id] = max(marks.get(part.id, part.max_effective_us), part.max_effective_us)
    return marks
