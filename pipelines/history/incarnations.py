"""Which incarnation of a source a load reads, and how much the lake has of each.

An incarnation takes the place of a topic's UUID: under another one, everything is read again. A job names it by a text.
When a text returns after another one, it names a new incarnation: what was loaded meanwhile may be wrong now.
"""

from __future__ import annotations

import hashlib
import re
from itertools import count
from pathlib import Path

from pipelines.history.change_detection import Positions
from pipelines.history.job import Job
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId

_LENGTH = 22
_TOPIC_ID = re.compile(f"[0-9a-f]{{{_LENGTH}}}")


def changes_of(part: PartId) -> PartId:
    """Return the partition of a source's messages that were changed since they were loaded."""
    return PartId(part.topic, part.topic_id, part.partition + 1)


def name_of(part: PartId) -> str:
    """Return the name of the file with a partition's digests."""
    return f"{part.topic}.{part.topic_id}"


def part_of(name: str) -> PartId:
    """Return the partition that a file of digests is named after."""
    topic, _, topic_id = name.rpartition(".")
    return PartId(topic, topic_id, 0)


def positions_of(lake: Lake, part: PartId) -> Positions:
    """Return how much of a source the lake has; this creates no tables."""
    if not lake.storage.holds_table("spans"):
        return Positions(0, 0)
    found = lake.spans.positions(lake.dataset.name, [part, changes_of(part)])
    return Positions(found[part] or 0, found[changes_of(part)] or 0)


def loaded_incarnations(lake: Lake, job: Job) -> dict[PartId, int]:
    """Return the incarnations of which the lake has messages, each with ``load_us`` of its last span.

    It is 0, or an epoch, if an earlier release decided that span.
    """
    if not lake.storage.holds_table("spans"):
        return {}
    topic = f"{job.source}.{lake.dataset.name}"
    begun = lake.spans.begun(job=job.name, dataset=lake.dataset.name)
    # Earlier releases recorded no names; others are topics of other jobs.
    topic_ids = {topic_id for topic_id, name in begun.topics.items() if name == topic}
    parts = [PartId(topic, topic_id, 0) for topic_id in sorted(topic_ids | (begun.claimed - begun.topics.keys()))]
    return {part: begun.loads.get(part.topic_id, 0) for part in parts if positions_of(lake, part)}


def last_loads(lake: Lake) -> dict[str, int]:
    """Return ``load_us`` of the last span of each incarnation, by its UUID, of all sources of the dataset."""
    return lake.spans.begun(job="", dataset=lake.dataset.name).loads if lake.storage.holds_table("spans") else {}


def lost_sources(lake: Lake, job: Job, home: Path) -> list[str]:
    """Return the other sources of which the lake has messages of an incarnation without a file of digests."""
    if not lake.storage.holds_table("spans"):
        return []
    begun, ending = lake.spans.begun(job=job.name, dataset=lake.dataset.name), f".{lake.dataset.name}"
    lost = {
        topic.removesuffix(ending)
        for topic_id, topic in begun.topics.items()
        if topic.endswith(ending)
        and _TOPIC_ID.fullmatch(topic_id)  # a topic of Kafka may be named like that, too
        and begun.positions.get((topic_id, 0))
        and not (home / "history" / f"{topic}.{topic_id}.npz").exists()
    }
    return sorted(lost - {job.source})


def incarnation(lake: Lake, job: Job, text: str) -> PartId:
    """Return the partition of the incarnation that a job's text names now.

    Args:
        lake: of the dataset.
        job: of the source.
        text: what the job's query for the incarnation returns; empty: it has none.
    """
    loaded = loaded_incarnations(lake, job)
    latest = _latest(lake, job, loaded)
    topic = f"{job.source}.{lake.dataset.name}"
    parts = (PartId(topic, _topic_id(job, text, returned), 0) for returned in count())
    return next(part for part in parts if part == latest or part not in loaded)


def _latest(lake: Lake, job: Job, loaded: dict[PartId, int]) -> PartId | None:
    """Return the incarnation that was loaded last; None: none was."""
    if len(loaded) > 1 and not any(loaded.values()):
        for span in lake.spans.all_spans():
            if (span.job, span.dataset, span.kind) == (job.name, lake.dataset.name, "stream"):
                part = PartId(span.parts[0].id.topic, span.parts[0].id.topic_id, 0)
                loaded[part] = max(loaded.get(part, 0), span.load_us or span.epoch)
    return max(loaded, key=loaded.__getitem__, default=None)


def _topic_id(job: Job, text: str, returned: int) -> str:
    """Return the name of an incarnation whose text has returned so many times after another one."""
    again = f"{returned}\0" if returned else ""
    return hashlib.sha256(f"{again}{job.source}|{text}".encode()).hexdigest()[:_LENGTH]
