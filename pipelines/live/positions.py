"""Where each partition goes on: what the lake knows, held against what the log still has."""

from __future__ import annotations

import logging
import uuid
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
    """Return where to read on, recording first sights, gaps and topics that are gone in the spans table.

    A partition never read begins where ``options.start`` says, but one that was added to a topic we read already
    begins at its beginning: what came before we noticed it is ours too. The beginning is committed at once, so that
    a crash before the first span does not skip what came since.

    Raises:
        UpstreamLoss: the log has lost what comes next, and nobody accepted that.
    """
    known = lake.spans.positions(lake.dataset.name, parts)
    old_topics = {part.topic for part, position in known.items() if position is not None}
    closing = _close_gone(lake, parts, job=job, shard=shard, epoch=epoch)
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
                "The lake is ahead of the log",
                where=f"{part}@{position}, log ends at {high}",
                remedy="The broker lost messages that were read. Make the topic anew, then start again.",
            )
        if position < low:
            if not options.accept_loss:
                raise UpstreamLoss(
                    "The log no longer holds what comes next",
                    where=f"{part}@{position}, log begins at {low}",
                    remedy="Look at the topic's retention; 'vitalake stream --accept-loss' records the gap.",
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


def _close_gone(lake: Lake, parts: list[PartId], *, job: str, shard: str, epoch: int) -> set[str]:
    """Close the partitions of earlier incarnations of these topics; return the topics that had one."""
    live = {part.topic: part.topic_id for part in parts}
    mine = {(part.topic, part.partition) for part in parts}
    gone, closed = lake.spans.incarnations(lake.dataset.name, set(live))
    topics = set()
    for part, end in gone.items():
        if live.get(part.topic) == part.topic_id:
            continue
        topics.add(part.topic)
        # A partition the new topic does not have is closed by whoever reads the topic's first one.
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
