"""One shard of a job, from its consumer to its writer: everything a worker holds, and the five steps on it."""

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
from pipelines.core.errors import TopicRemade
from pipelines.core.kafka import Shard, ShardConsumer
from pipelines.core.poll import DecodedPoll, Outcome, Poll
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
from vitalake.lake.commits.spans import PartId, Span
from vitalake.settings import Settings

_log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""A lane says that it lives, in the care store: a quiet ward is told from one whose stream has stopped."""

KEY_SECONDS = 0.5
"""Wait between tries while patients' keys cannot be had."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the command line adds to the configuration.

    Attributes:
        start: where to begin where the lake knows no position: earliest, latest, or a time in ms.
        accept_loss: record a gap in the log instead of stopping.
        until_idle_seconds: end when nothing has come for so long; None: never.
    """

    start: Literal["earliest", "latest"] | int = "earliest"
    accept_loss: bool = False
    until_idle_seconds: float | None = None


class Lane:
    """A shard's state in one process; used by one thread at a time."""

    def __init__(
        self, settings: Settings, job: str, shard: Shard, options: StreamOptions, stop: threading.Event
    ) -> None:
        """Prepare without touching anything that is shared: see begin."""
        self.settings, self.job, self.shard, self.options, self.stop = settings, job, shard, options, stop
        self.stream = settings.jobs[job]
        self.name = f"{job}/{shard}"
        self.status = Status(shard=self.name)
        self.lake = Home(settings).lake(self.stream.dataset)
        self.lake.check_writable()  # first, for a home of an earlier release may lack a key too
        self._know()
        self.consumer: ShardConsumer | None = None
        self.writer: SpanWriter | None = None
        self._listed = self._beaten = 0.0
        self._came: float | None = None  # when something came last: counted over bundles, which may be shorter

    def _know(self) -> None:
        """Read the fence, rules, keys, vocabulary and profiles."""
        self.steps = FencedSteps(self.settings, self.stream, self.lake)
        self.decoders: dict[str, Decoder] = {
            name: make_decoder(name, dataset=self.stream.dataset, stream=self.stream, settings=self.settings)
            for name in sorted(set(self.stream.topics.values()))
        }

    # -- beginning and ending ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make sure that reading starts where the lake says; called at the start of every bundle."""
        if self.writer is not None and time.monotonic() - self._listed > self.stream.relist_seconds:
            self._relist()
        if self.writer is None:
            self._open()
        assert self.consumer is not None and self.writer is not None
        lake_positions = self.lake.spans.positions(self.lake.dataset.name, self.consumer.parts)
        if lake_positions != self.writer.positions or not self._consumer_is_there():
            self.reset()
            self._open()

    def _consumer_is_there(self) -> bool:
        """Whether the consumer stands at the decided positions; control records may lie between."""
        assert self.consumer is not None and self.writer is not None
        return self.consumer.next == self.writer.positions

    def _open(self) -> None:
        self.consumer = consumer = ShardConsumer(self.settings, self.job, self.shard)
        parts = consumer.list_parts()
        spans = self.lake.spans
        spans.claim(job=self.job, dataset=self.lake.dataset.name, topic_ids={part.topic_id for part in parts})
        epoch = spans.begin_epoch(job=self.job, shard=str(self.shard))
        introduce(self.settings, self.steps.keys, self.steps.vault)
        since = clock.now_us() - int(self.stream.lookback_seconds * 1e6)
        if self.steps.outdated:
            self.steps.close()
            self._know()
        recent = self.lake.roll_forward(parts, since_us=since)
        positions = resolve_positions(
            self.lake, consumer, parts, job=self.job, shard=str(self.shard), epoch=epoch, options=self.options
        )
        self._remember(recent, set(parts))
        if self.steps.feed is not None:
            kept = clock.now_us() - int(self.settings.care.hours * 3_600e6)
            known = spans.recent(parts, dataset=self.lake.dataset.name, since_us=kept)
            self.steps.feed.look_whether_lacking(self.name, known)
            if self.steps.attributor is not None:
                self.steps.feed.rewind(positions)
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
            on_committed=self._committed,
            on_paused=partial(self.status.pause, "storage"),
            begin_small=True,
        )
        consumer.start(positions)
        self._listed = time.monotonic()
        self.status.open = True
        _log.info("lane open", extra={"shard": self.name, "count": len(parts)})

    def _committed(self, span: Span) -> None:
        """Take note of a span that is added everywhere; in the committer's thread."""
        self.status.committed(span)
        if self.steps.feed is not None:
            self.steps.feed.settle({part.id: part.end for part in span.parts})

    def _remember(self, recent: list[Span], parts: set[PartId]) -> None:
        """Fill the look-back from the lake; spans that also hold other shards' partitions do no harm."""
        self.steps.lookback.clear()
        since = clock.now_us() - int(self.stream.lookback_seconds * 1e6)
        young = [span for span in recent if span.decided_us >= since]
        for seen in read_seen(self.lake.storage, young, entries=self.steps.lookback.entries):
            self.steps.lookback.admit(seen.prints, now=time.monotonic())
            if seen.older:
                self.steps.older_until = time.monotonic() + 2 * self.stream.lookback_seconds

    def _relist(self) -> None:
        """Take in partitions that were added; a topic made again starts the lane anew."""
        assert self.consumer is not None and self.writer is not None
        self._listed = time.monotonic()
        parts = self.consumer.list_parts()
        known = {part.topic: part.topic_id for part in self.consumer.parts}
        if any(known.get(part.topic, part.topic_id) != part.topic_id for part in parts):
            raise TopicRemade("Topic was made again", where=self.name, remedy="The lane starts on the new one.")
        if set(parts) != set(self.consumer.parts):
            _log.info("partitions changed", extra={"shard": self.name, "count": len(parts)})
            self.reset()

    def reset(self) -> None:
        """Throw away what is not decided; the next bundle starts from the lake."""
        if self.writer:
            self.writer.close()
        if self.consumer:
            self.consumer.close()
        self.writer, self.consumer = None, None

    # -- the five steps ------------------------------------------------------------------------------------------

    def read(self, seconds: float) -> Iterator[Poll | None]:
        """Yield polls for at most so long; None marks time passing, so that the writer can cut."""
        assert self.consumer is not None
        end = time.monotonic() + seconds
        if self._came is None:
            self._came = time.monotonic()
        idle = self.options.until_idle_seconds
        while time.monotonic() < end and not self.stop.is_set():
            self._beat()
            came = False
            for poll in self.consumer.poll():
                came = True
                yield poll
            now = time.monotonic()
            self._came = now if came or self.consumer.down else self._came
            self.status.note_consumer(self.consumer.lag(), down=self.consumer.down) if not came else None
            if not came:
                yield None
                if idle is not None and now - self._came >= idle:
                    self.status.idle = True
                    return

    def _beat(self) -> None:
        if self.steps.feed is not None and time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.steps.feed.beat(self.name)

    def leave(self) -> None:
        """Say that the lane ends by itself, so that nobody takes it for one that died."""
        if self.steps.feed is not None:
            self.steps.feed.beat(self.name, ended=True)

    def decode(self, poll: Poll) -> DecodedPoll:
        """Return the poll with its decoded rows and undecodable messages."""
        failpoint("decode")
        return DecodedPoll(poll, self.decoders[poll.format].decode(poll.values))

    def conform(self, item: DecodedPoll) -> Outcome:
        """Return rows in the vocabulary's units that are plausible."""
        return self.steps.conform(item)

    def mask(self, outcome: Outcome) -> Outcome:
        """Return the rows that are new as they may be published; waits while patients' keys cannot be had.

        Raises:
            KeyRevoked, ServiceUnavailable: they still cannot, and the lane is to stop.
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
        """Take the rows into the open span and cut it when it is time."""
        assert self.writer is not None
        if outcome is not None:
            self.writer.take(outcome)
            self.status.taken(len(outcome.poll.values), outcome.rejects)
        self.writer.cut_if_due()

    def finish(self) -> None:
        """Cut, and wait until everything is decided and added; called at the end of every bundle."""
        assert self.writer is not None
        self.writer.cut()
        self.writer.flush()
        gc.collect()  # the worker switched the automatic one off; what a bundle leaves in cycles is little


def _watermarks(recent: list[Span]) -> dict[PartId, int]:
    marks: dict[PartId, int] = {}
    for span in recent:
        for part in span.parts:
            if part.max_effective_us is not None:
                marks[part.id] = max(marks.get(part.id, part.max_effective_us), part.max_effective_us)
    return marks
