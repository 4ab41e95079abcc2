"""Finds where reading of each partition continues: compares the lake's position with what Kafka still has."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

from pipelines.core.errors import UpstreamLoss
from pipelines.core.kafka import ShardConsumer
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import Counts, Part, PartId, Span
from vitalake.lake.commits.span_log import SpanConflict

if TYPE_CHECKING:
    from pipelines.live.lane import StreamOptions

_log = logging.getLogger(__name__)


def resolve_positions(
    lake: Lake,
    consumer: ShardConsumer,
    parts: list[PartId],
    *,
    job: str,
    shard: str,
    epoch: int,
    options: StreamOptions,
) -> dict[PartId, int]:
    """Return where to read on, and record new partitions, gaps and deleted topics in the spans table.

    Raises:
        UpstreamLoss: Kafka has lost or deleted messages, and the loss was not accepted.
        TopicRemade: a topic was deleted since its partitions were listed.
    """
    while True:
        try:
            begun = _begin_new(lake, consumer, job=job, shard=shard, epoch=epoch, options=options)
            break
        except SpanConflict:
            continue  # another shard has begun the same topic at this moment: its beginnings count
    positions = {}
    for part, known in lake.spans.positions(lake.dataset.name, parts).items():
        assert known is not None, "all partitions were begun"
        position = known
        if part in begun:
            positions[part] = position
            continue
        low, high = consumer.bounds(part)
        if not low <= position <= high:
            consumer.check_topics([part], gone=False)
        if position > high and not consumer.holds(part, position - 1):
            raise UpstreamLoss(
                "The lake's position is after the end of Kafka's log",
                where=f"{part}@{position}, log ends at {high}",
                remedy="The broker lost messages that were read. Delete and create the topic, then start again.",
            )
        if position < low:
            if not options.accept_loss:
                raise UpstreamLoss(
                    "Kafka has deleted messages that were not read yet",
                    where=f"{part}@{position}, log begins at {low}",
                    remedy="Check the topic's retention. 'vitalake stream --accept-loss' records the gap.",
                )
            _record(lake, "gap", job, shard, epoch, [_gap(part, position, low)])
            position = low
        positions[part] = position
    return positions


def _gap(part: PartId, position: int, low: int) -> Part:
    lost = low - position
    return Part(part, position, position, low, Counts(messages=lost, lost_upstream=lost))


def _begin_new(
    lake: Lake, consumer: ShardConsumer, *, job: str, shard: str, epoch: int, options: StreamOptions
) -> set[PartId]:
    """Begin every partition that was never read, whichever shard it belongs to; return them.

    The partitions of a topic whose name was never read begin where ``options.start`` says, all at the same time: a
    shard that opens later, or another number of shards, changes nothing. One that has none of these beginnings was
    added later, or its topic was made again: messages that came before the lane noticed belong to it too, so it begins
    at its first offset. The beginning is committed at once, so that a crash before the first span skips no messages.

    Raises:
        SpanConflict: another shard has begun one of them meanwhile; nothing was begun.
    """
    spans, dataset = lake.spans, lake.dataset.name
    known = spans.positions(dataset, consumer.listed)
    new = [part for part, position in known.items() if position is None]
    old = {part.topic_id: part.topic for part, position in known.items() if position is not None}
    unread = {part.topic: part.topic_id for part in new if part.topic_id not in old}
    made_again: set[str] = set()
    unknown: list[PartId] = []
    if unread:
        read, closed = spans.read_partitions(dataset)
        begun = spans.begun(job=job, dataset=dataset)
        names = begun.topics | {part.topic_id: part.topic for part in read}
        gone = {
            PartId(names[topic_id], topic_id, partition): position
            for (topic_id, partition), position in begun.positions.items()
            if topic_id in names and unread.get(names[topic_id], topic_id) != topic_id
        }
        for part in sorted(gone.keys() - closed):
            end = gone[part]
            _record(lake, "closed", job, shard, epoch, [Part(part, end, end, end, Counts(), lost_unknown=True)])
            _log.warning("topic made again: old partition closed", extra={"where": str(part)})
        made_again = {part.topic for part in gone}
        # Each of the new topics may be one of these, made again. So none skips messages, and the loss is noted.
        nameless = begun.claimed - names.keys() - {part.topic_id for part in known}
        if nameless:
            unknown = [part for part in new if part.topic in unread.keys() - made_again]
            made_again |= unread.keys()
            old |= dict.fromkeys(nameless, "")
    first = {
        part: consumer.offset_at(
            part, "earliest" if part.topic_id in old or part.topic in made_again else options.start
        )
        for part in new
    }
    if unknown:
        parts = [Part(part, None, first[part], first[part], Counts(), lost_unknown=True) for part in unknown]
        _record(lake, "gap", job, shard, epoch, parts)
        _log.warning("topics may have been made again: an earlier release has read one that is gone")
    spans.begin_at(dataset, {part: at for part, at in first.items() if part not in unknown}, topics=old)
    return set(new)


def _record(lake: Lake, kind: str, job: str, shard: str, epoch: int, parts: list[Part]) -> None:
    lake.spans.decide(
        Span(
            span_id=f"{job}.{shard}.e{epoch}.{uuid.uuid4().hex}",
            kind=kind,  # type: ignore[arg-type]
            job=job,
            dataset=lake.dataset.name,
            shard=shard,
            epoch=epoch,
            decided_us=clock.now_us(),
            rules="",
            decoder="",
            parts=parts,
            latency={},
            files=[],
            fence=lake.spans.fence(lake.dataset.name),
        )
    )
