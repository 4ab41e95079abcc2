"""Makes restricted rows again from the messages that the broker still has: reads, decodes and seals them again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipelines.core.errors import BrokerUnreachable, TopicMissing, TopicRemade, UpstreamLoss
from pipelines.core.kafka import Shard, ShardConsumer, check_broker_listens
from pipelines.core.lookback import LookBack
from pipelines.core.poll import DecodedPoll, Poll
from pipelines.formats.registry import make_decoder
from pipelines.intake.steps import Steps
from vitalake.lake.commits.lake import Lake, restricted_name
from vitalake.lake.commits.seen import read_seen
from vitalake.lake.commits.span import Part, PartId, Span
from vitalake.settings import Settings, StreamSettings

SILENT_SECONDS = 30.0
"""A broker that returns nothing for so long, of messages that it should have, does not have them any more."""


@dataclass(slots=True)
class Reread:
    """The rows that were made from the broker's messages.

    Attributes:
        rows: restricted rows of the wanted spans, of all days.
        lost: span id → why its messages cannot be read any more, in words.
    """

    rows: pa.Table
    lost: dict[str, str] = field(default_factory=dict)


def reread(settings: Settings, lake: Lake, wanted: Sequence[Span]) -> Reread:
    """Return the restricted rows of the spans of which the broker still has all messages.

    The time at which a span was decided is taken as the time at which its rows arrived, because the real one was only
    in the lost file. Duplicates are recognised as they were then if the messages of the look-back's time before are
    still in the broker's log or in look-back files.

    Args:
        settings: of the home.
        lake: opened for the dataset.
        wanted: spans that a stream has decided.

    Raises:
        KeyRevoked: patients' keys are not available.
        ServiceUnavailable: lake or vault cannot be reached.
    """
    table = lake.restricted
    schema = pa.schema([table.state.columns.field(name) for name in table.dataset.schema.names])
    done, parts = Reread(schema.empty_table()), list[pa.Table]()
    spans = [span for span in lake.spans.all_spans() if span.dataset == lake.dataset.name and span.kind == "stream"]
    for job in sorted({span.job for span in wanted}):
        of_job = [span for span in wanted if span.job == job]
        if job not in settings.jobs:
            done.lost |= {span.span_id: f"no job {job} reads these messages any more" for span in of_job}
            continue
        try:
            check_broker_listens(settings.kafka.bootstrap_servers)
            rows = _of_job(settings, lake, job, [span for span in spans if span.job == job], of_job, done.lost)
            parts += [pa.Table.from_batches([batch]).select(schema.names).cast(schema) for batch in rows]
        except (BrokerUnreachable, TopicMissing, TopicRemade, UpstreamLoss) as error:
            done.lost |= {span.span_id: f"{error.what} ({error.where})" for span in of_job}
    done.rows = pa.concat_tables(parts or [done.rows])
    return done


def _of_job(
    settings: Settings, lake: Lake, job: str, spans: Sequence[Span], wanted: Iterable[Span], lost: dict[str, str]
) -> Iterator[pa.RecordBatch]:
    """Yield rows of the wanted spans of a job; spans whose messages the broker has deleted are added to ``lost``."""
    with closing(ShardConsumer(settings, job, Shard(0, 1))) as consumer:
        ids = {part.id for span in wanted for part in span.parts}
        lows = {part: consumer.bounds(part)[0] for part in ids.intersection(consumer.list_parts())}
        there = dict[str, Span]()
        for span in wanted:
            gone = [str(part.id) for part in span.parts if lows.get(part.id, part.end) > part.first]
            if gone:
                lost[span.span_id] = f"the broker no longer has the messages of {', '.join(gone)}"
            else:
                there[span.span_id] = span
        if not there:
            return
        stream = settings.jobs[job].model_copy(update={"care": False})
        since = min(span.decided_us for span in there.values()) - stream.lookback_seconds * 1e6
        with closing(Steps(settings, stream, lake.dataset, purpose="repair")) as steps:
            for part in sorted({part.id for span in there.values() for part in span.parts}):
                _fill_lookback(lake, steps, stream, [span for span in spans if span.decided_us < since])
                stretches = [(p, s) for s in spans for p in s.parts if p.id == part and s.decided_us >= since]
                yield from _of_part(settings, consumer, steps, stretches, there, low=lows[part])


def _fill_lookback(lake: Lake, steps: Steps, stream: StreamSettings, before: Sequence[Span]) -> None:
    """Start with a new look-back, filled from the look-back files of the last spans before."""
    steps.lookback = LookBack(entries=stream.lookback_entries, seconds=stream.lookback_seconds)
    young = [span for span in before if span.decided_us >= before[-1].decided_us - stream.lookback_seconds * 1e6]
    for seen in read_seen(lake.storage, young, entries=stream.lookback_entries):
        steps.lookback.admit(seen.prints, now=young[-1].decided_us / 1e6)
        if seen.older:
            steps.older_until = float("inf")


def _of_part(
    settings: Settings,
    consumer: ShardConsumer,
    steps: Steps,
    stretches: Sequence[tuple[Part, Span]],
    there: Mapping[str, Span],
    *,
    low: int,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one partition that belong to the wanted spans.

    All stretches are read, not only those of wanted spans, so that the look-back recognises duplicates.

    Args:
        settings: of the home.
        consumer: of the job.
        steps: of the job, with a filled look-back.
        stretches: what each span covers of the partition, in order.
        there: the wanted spans whose messages the broker has.
        low: the first offset that the broker has.
    """
    stream, first = consumer.stream, stretches[0][0]
    end = max(part.end for part, span in stretches if span.span_id in there)
    decoder = make_decoder(stream.topics[first.id.topic], dataset=stream.dataset, stream=stream, settings=settings)
    for poll in _polls(consumer, first.id, start=max(low, min(part.first for part, _ in stretches)), end=end):
        for part, span in stretches:
            piece = _within(poll, part)
            if piece is None:
                continue
            steps.at_us = span.decided_us
            outcome = steps.mask(steps.conform(DecodedPoll(piece, decoder.decode(piece.values))))
            if span.span_id in there:
                yield outcome.extra[restricted_name(stream.dataset)]
    consumer.check_topics(gone=False)  # else the rows are those of another topic of this name


def _polls(consumer: ShardConsumer, part: PartId, *, start: int, end: int) -> Iterator[Poll]:
    """Yield the messages of a partition up to an offset, and perhaps some after it.

    Raises:
        BrokerUnreachable: the broker returns no more messages.
    """
    consumer.start({part: start})
    last_arrival = time.monotonic()
    while consumer.next[part] < end:
        for poll in consumer.poll():
            last_arrival = time.monotonic()
            yield poll
        if time.monotonic() - last_arrival > SILENT_SECONDS:
            raise BrokerUnreachable("Broker does not return the messages", where=str(part), remedy="Try again later.")


def _within(poll: Poll, part: Part) -> Poll | None:
    """Return the messages of a poll of one partition that lie within a span's stretch; None: there are none."""
    chosen = np.flatnonzero((poll.offset >= part.first) & (poll.offset < part.end))
    if not len(chosen):
        return None
    return replace(
        poll,
        values=[poll.values[i] for i in chosen.tolist()],
        part=poll.part[chosen],
        offset=poll.offset[chosen],
        broker_ms=poll.broker_ms[chosen],
    )
