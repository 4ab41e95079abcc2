"""Collects rows in spans, counts them, and commits one span after the other in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.core.dead_letters import DeadLetters
from pipelines.core.errors import TopicRemade
from pipelines.core.poll import Outcome
from vitalake import clock
from vitalake.causes import unavailable
from vitalake.errors import ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.lake.commits.lake import Lake, published_name
from vitalake.lake.commits.latency import bucket_counts
from vitalake.lake.commits.seen import write_seen
from vitalake.lake.commits.span import EVERYTHING, Counts, OnlineShare, Part, PartId, Span
from vitalake.lake.commits.span_log import Unbalanced
from vitalake.lake.tables.dictionaries import unified
from vitalake.lake.tables.table import StagedFile

_log = logging.getLogger(__name__)

DEAD_LETTERS = "quarantine/dead_letter"

SPAN_BYTES = 64 << 20
"""A span is cut when its rows are this large: large messages must not fill the memory."""

FIRST_SHARE = 1 / 16
"""The first span of a stream is cut at this share of the configured age and length, and each following one at GROWTH
times the share of the one before. So a worker that is killed every few seconds still decides a span each time."""

GROWTH = 4
"""A span costs about 60 ms of processor time whatever its size. With 4 the small spans of a start cost two spans more
than a start without them; with 2 it was four more."""

PAUSE_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between tries while the storage fails."""


@dataclass(slots=True)
class OpenSpan:
    """A span that still takes polls.

    Attributes:
        opened: when its first poll came, by time.monotonic().
        parts: what it covers of each partition, and the counts.
        rows: table → rows that are to be written.
        seen: fingerprints for the look-back file.
        broker_ms: the broker's timestamps, for the latency.
        messages: how many it has.
        nbytes: roughly the size of its rows.
        associations: the oldest version of the associations by which its rows were attributed.
    """

    opened: float
    parts: dict[PartId, Part] = field(default_factory=dict)
    rows: dict[str, list[pa.RecordBatch]] = field(default_factory=lambda: defaultdict(list))
    seen: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    broker_ms: list[npt.NDArray[np.int64]] = field(default_factory=list)
    messages: int = 0
    nbytes: int = 0
    associations: int | None = None

    def keep(self, table: str, rows: pa.RecordBatch) -> None:
        """Keep rows for a table."""
        if rows.num_rows:
            self.rows[table].append(rows)
            self.nbytes += rows.nbytes


class SpanWriter:
    """Takes outcomes and commits them in spans. A span covers each partition from where the span before ended."""

    def __init__(
        self,
        lake: Lake,
        *,
        job: str,
        shard: str,
        epoch: int,
        fence: int,
        rules: str,
        decoder: str,
        dead_letters: DeadLetters,
        span_seconds: float,
        span_rows: int,
        late_seconds: float,
        positions: dict[PartId, int],
        watermarks: dict[PartId, int],
        stop: threading.Event,
        on_committed: Callable[[Span], None],
        on_paused: Callable[[str], object],
        before_decide: Callable[[], None] | None = None,
        kind: Literal["stream", "replay", "attribution"] = "stream",
        begin_small: bool = False,
        online: OnlineShare = EVERYTHING,
    ) -> None:
        """Start the committer's thread. Use FencedSteps.open_writer, which gives the right fence.

        Args:
            lake: opened by this thread, and used by the committer's thread from now on.
            job: the job of the spans.
            shard: its shard, ``<i>of<n>``.
            epoch: of the shard.
            fence: of the dataset, as it was before keys, rules and associations were read.
            rules: version of the rules.
            decoder: decoders and versions.
            dead_letters: makes envelopes of rejects.
            span_seconds: age at which a span is cut.
            span_rows: number of messages at which a span is cut.
            late_seconds: how far a row may lie behind the watermark before the ledger counts it as late.
            positions: where reading of each partition continues; the writer updates it.
            watermarks: newest effective time of each partition, in microseconds.
            stop: when it is set, the writer no longer waits for the storage.
            on_committed: called with each span that was added to all tables.
            on_paused: called with the reason for which the writer waits.
            before_decide: called in the committer's thread before a span is decided; what it raises discards the span.
            kind: of the spans.
            begin_small: whether the first spans are cut earlier, see FIRST_SHARE.
            online: which rows go to the online store too.
        """
        self._lake, self._job, self._shard, self._epoch = lake, job, shard, epoch
        self._fence, self._kind, self._online = fence, kind, online
        self._rules, self._decoder, self._dead_letters = rules, decoder, dead_letters
        self._span_seconds, self._span_rows = span_seconds, span_rows
        self._late_us = int(late_seconds * 1e6)
        self.positions = positions
        self._watermarks = watermarks
        self._stop, self._on_committed, self._on_paused = stop, on_committed, on_paused
        self._before_decide = before_decide
        self.load_us = 0  # of its spans; see Span
        self._share_of_span = FIRST_SHARE if begin_small else 1.0
        self._open: OpenSpan | None = None
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="committer")
        self._pending: Future[None] | None = None

    @property
    def epoch(self) -> int:
        """Return the shard's epoch, of which it decides spans until a successor begins another one."""
        return self._epoch

    # -- collecting ----------------------------------------------------------------------------------------------

    def take(self, outcome: Outcome) -> None:
        """Count a poll's outcome, and add its rows to the open span."""
        if self._open is None:
            self._open = OpenSpan(time.monotonic())
        span, poll = self._open, outcome.poll
        self._count(span, outcome)
        span.messages += len(poll.values)
        span.broker_ms.append(poll.broker_ms if poll.ours is None else poll.broker_ms[~poll.ours])
        span.keep(published_name(self._lake.dataset.name), outcome.rows)
        for table, rows in outcome.extra.items():
            span.keep(table, rows)
        if outcome.associations:
            span.associations = min(span.associations or outcome.associations, outcome.associations)
        if len(outcome.fingerprints):
            span.seen.append(outcome.fingerprints)
        if outcome.rejects:
            where = [reject.message for reject in outcome.rejects]
            parts = [poll.parts[i] for i in poll.part[where].tolist()]
            dead = self._dead_letters.batch(
                [poll.values[i] for i in where],
                outcome.rejects,
                sources=[str(part) for part in parts],
                topic_ids=[part.topic_id for part in parts],
                positions=poll.offset[where].tolist(),
                broker_ms=poll.broker_ms[where].tolist(),
                dataset=self._lake.dataset.name,
                decoder=self._decoder,
                rejected_at_us=clock.now_us(),
            )
            span.keep(DEAD_LETTERS, dead)

    def _count(self, span: OpenSpan, outcome: Outcome) -> None:
        poll = outcome.poll
        part_of = poll.part

        def per_part(messages: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
            indices = np.asarray(messages, np.int64)
            return np.bincount(part_of[indices], weights, minlength=len(poll.parts)).astype(np.int64)

        undecodable = [r.message for r in outcome.rejects if r.rows == 0]
        rejected = [r for r in outcome.rejects if r.rows]
        decoded = np.zeros(len(poll.values), np.bool_)
        decoded[outcome.row_message] = True
        decoded[outcome.empty] = True
        late = self._late(outcome)
        columns = {
            "messages": np.bincount(part_of, minlength=len(poll.parts)),
            "decoded": per_part(np.flatnonzero(decoded)),
            "undecodable": per_part(undecodable),
            "tombstones": per_part(outcome.tombstones),
            "rows": per_part(outcome.row_message),
            "published": per_part(outcome.message),
            "rejected": per_part([r.message for r in rejected], [r.rows for r in rejected]),
            "duplicate": per_part(outcome.duplicate),
            "filtered": per_part(outcome.filtered),
            "held": per_part(outcome.held),
            "late": per_part(outcome.message[late]),
        }
        unfit = {name: per_part(messages) for name, messages in outcome.unfit.items()}
        mapped = {name: per_part(messages) for name, messages in outcome.mapped.items()}
        unmapped = {name: per_part(messages) for name, messages in outcome.unmapped.items()}
        row_part = part_of[outcome.message]
        for i in np.flatnonzero(columns["messages"]).tolist():
            identity = poll.parts[i]
            offsets = poll.offset[part_of == i]
            part = span.parts.get(identity)
            if part is None:
                start = self.positions[identity]
                part = span.parts[identity] = Part(identity, start, int(offsets[0]), start, Counts())
            part.end = int(offsets[-1]) + 1
            part.counts.add(Counts(**{name: int(values[i]) for name, values in columns.items()}))
            part.count_unfit(_of_part(unfit, i))
            part.count_local(_of_part(mapped, i), _of_part(unmapped, i))
            mine = outcome.effective_us[row_part == i]
            if len(mine):
                # A device's clock that runs ahead must not make the rows of all others late.
                newest = min(int(mine.max()), int(poll.broker_ms[part_of == i].max()) * 1000)
                part.max_effective_us = max(part.max_effective_us or newest, newest)

    def _late(self, outcome: Outcome) -> npt.NDArray[np.bool_]:
        never = -(1 << 62)
        marks = np.array([self._watermarks.get(part, never) for part in outcome.poll.parts], np.int64)
        behind: npt.NDArray[np.bool_] = outcome.effective_us < marks[outcome.poll.part[outcome.message]] - self._late_us
        return behind

    # -- cutting -------------------------------------------------------------------------------------------------

    def cut_if_due(self) -> None:
        """Cut the open span if it has reached its age, its number of messages or its size."""
        span, share = self._open, self._share_of_span
        if span and (
            time.monotonic() - span.opened >= share * self._span_seconds
            or span.messages >= share * self._span_rows
            or span.nbytes >= SPAN_BYTES
        ):
            self.cut()

    def cut(self) -> None:
        """Hand the open span to the committer; wait first until the span before is committed.

        Raises:
            VitaLakeError: the span before could not be committed.
        """
        opened, self._open = self._open, None
        if opened is None:
            return
        self._share_of_span = min(1.0, GROWTH * self._share_of_span)
        self.flush()
        for part in opened.parts.values():
            self.positions[part.id] = part.end
            if part.max_effective_us is not None:
                self._watermarks[part.id] = max(
                    self._watermarks.get(part.id, part.max_effective_us), part.max_effective_us
                )
        self._pending = self._committer.submit(self._commit, opened)

    def flush(self) -> None:
        """Wait until the span that was cut last is committed and added to all tables.

        Raises:
            VitaLakeError: it could not be committed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the committer's thread; what is not cut is discarded and read again."""
        self._open = None
        self._committer.shutdown(wait=True)

    # -- committing (in the committer's thread) ------------------------------------------------------------------

    def _commit(self, opened: OpenSpan) -> None:
        span = self._span(opened)
        steps = [lambda: self._stage(span, opened), lambda: self._decide(span), lambda: self._lake.add(span)]
        for step in steps:
            self._persist(step)
        self._on_committed(span)

    def _persist(self, step: Callable[[], None]) -> None:
        """Repeat a step, which must be safe to repeat, until the storage accepts it."""
        attempt, logged = 0, ""
        while True:
            try:
                return step()
            except TopicRemade:
                raise  # the storage has accepted everything; the span's messages may be another topic's
            except (OSError, ServiceUnavailable) as error:
                logged = self._pause(error, attempt, logged)
                attempt += 1

    def _span(self, opened: OpenSpan) -> Span:
        parts = sorted(opened.parts.values(), key=lambda part: part.id)
        for part in parts:
            if not part.counts.balanced:
                raise Unbalanced(
                    "Ledger does not balance",
                    where=f"{part.id}@{part.first}-{part.end}",
                    remedy="Nothing of this span was committed. This is a bug: keep the logs and report it.",
                )
        return Span(
            span_id=f"{self._job}.{self._shard}.e{self._epoch}.{uuid.uuid4().hex}",
            kind=self._kind,
            job=self._job,
            dataset=self._lake.dataset.name,
            shard=self._shard,
            epoch=self._epoch,
            decided_us=0,
            rules=self._rules,
            decoder=self._decoder,
            parts=parts,
            latency={},
            files=[],
            fence=self._fence,
            associations=opened.associations or 0,
            load_us=self.load_us,
            online=self._online,
        )

    def _stage(self, span: Span, opened: OpenSpan) -> None:
        failpoint("before-stage")
        files: list[StagedFile] = []
        for table, batches in opened.rows.items():
            files += self._lake.table(table).stage(unified(batches), stem=span.span_id)
        if opened.seen:
            files.append(write_seen(self._lake.storage, span.span_id, np.concatenate(opened.seen)))
        span.files = files
        span.decided_us = clock.now_us()
        span.latency = bucket_counts((span.decided_us / 1000 - np.concatenate(opened.broker_ms)).astype(np.float64))
        failpoint("staged")

    def _decide(self, span: Span) -> None:
        if self._before_decide is not None:
            self._before_decide()
        self._lake.decide(span)
        failpoint("decided")

    def _pause(self, error: OSError | ServiceUnavailable, attempt: int, logged: str) -> str:
        """Wait before the next try; return the reason, which is logged if it differs from the one logged last."""
        why = error if isinstance(error, ServiceUnavailable) else unavailable(
            error, "Lake storage refuses", where="lake", remedy="Check its disk, then start again. Nothing is lost."
        )  # fmt: skip
        if not why.transient:
            raise why from None
        self._on_paused(f"{why.what}; waiting, goes on by itself")
        if why.what != logged:
            extra = {"what": why.what, "where": why.where, "remedy": why.remedy}
            _log.warning("paused", extra={**extra, "shard": f"{self._job}/{self._shard}"})
        if self._stop.wait(PAUSE_SECONDS[min(attempt, len(PAUSE_SECONDS) - 1)]):
            raise why from None
        return why.what


def _of_part(counts: Mapping[str, npt.NDArray[np.int64]], i: int) -> dict[str, int]:
    return {name: int(values[i]) for name, values in counts.items() if values[i]}
