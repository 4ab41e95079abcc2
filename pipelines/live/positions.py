"""Finds where reading of each partition continues: compares the lake's position with what Kafka still has."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.core.errors import UpstreamLoss
from pipelines.core.kafka import ShardConsumer
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.spans import Counts, Part, PartId, Span

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

    A partition that was never read begins where ``options.start`` says. One that was added to a topic which is read
    already begins at its first offset: messages that came before the lane noticed the partition belong to it too. The
    beginning is committed at once, so that a crash before the first span does not skip messages.

    Raises:
        UpstreamLoss: Kafka has lost or deleted messages, and the loss was not accepted.
    """
    known = lake.spans.positions(lake.dataset.name, parts)
    old_topics = {part.topic for part, position in known.items() if position is not None}
    closing = _close_gone(lake, known, job=job, shard=shard, epoch=epoch)
    positions = {}
    first: dict[PartId, int] = {}
    for part in parts:
        position = known[part]
        if position is None:
            start = "earliest" if part.topic in old_topics | closing else options.start
            first[part] = positions[part] = consumer.offset_at(part, start)
            continue
        low, high = consumer.bounds(part)
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
            _record(lake, "gap", job, shard, epoch, _gap(part, position, low))
            position = low
        positions[part] = position
    if first:
        lake.spans.begin_at(lake.dataset.name, first)
    return positions


def _gap(part: PartId, position: int, low: int) -> Part:
    lost = low - position
    return Part(part, position, position, low, Counts(messages=lost, lost_upstream=lost))


def _close_gone(lake: Lake, known: Mapping[PartId, int | None], *, job: str, shard: str, epoch: int) -> set[str]:
    """Close the partitions of topics that were deleted and created again; return these topics.

    A topic that was created again has the same name and another UUID, and partitions without a position. The spans are
    read only then: a partition gets its position after the old one was closed.
    """
    live = {part.topic: part.topic_id for part, position in known.items() if position is None}
    if not live:
        return set()
    mine = {(part.topic, part.partition) for part in known}
    gone, closed = lake.spans.incarnations(lake.dataset.name, set(live))
    topics = set()
    for part, end in gone.items():
        if live[part.topic] == part.topic_id:
            continue
        topics.add(part.topic)
        # A partition that the new topic lacks is closed by the shard that reads the topic's partition 0.
        owner = (part.topic, part.partition) if (part.topic, part.partition) in mine else (part.topic, 0)
        if part in closed or owner not in mine:
            continue
        _record(lake, "closed", job, shard, epoch, Part(part, end, end, end, Counts(), lost_unknown=True))
        _log.warning("topic made again: old partition closed", extra={"where": str(part)})
    return topics


def _record(lake: Lake, kind: str, job: str, shard: str, epoch: int, part: Part) -> None:
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
            parts=[part],
            latency={},
            files=[],
            fence=lake.spans.fence(lake.dataset.name),
        )
    )
