"""What a message that was put aside is read with today: its topic's job, and that job's decoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.replay.letters import Source
from vitalake.settings import Settings, StreamSettings


@dataclass(frozen=True, slots=True)
class Lineage:
    """A job as the home has it now, and the partitions whose messages are replayed as its own."""

    job: str
    stream: StreamSettings
    sources: frozenset[Source]

    def format_of(self, topic: str) -> str:
        """Return the format of a topic's messages."""
        return self.stream.topics[topic]


def lineages(settings: Settings, sources: Iterable[Source]) -> tuple[list[Lineage], list[Source]]:
    """Return the jobs that know these partitions' topics, and the partitions that no job knows any more.

    A topic may be read into several datasets, by a job each: the message's own row says for which it was put aside.
    """
    mine: dict[str, set[Source]] = defaultdict(set)
    unknown: list[Source] = []
    for source in sources:
        jobs = [
            name
            for name, stream in settings.jobs.items()
            if source.topic in stream.topics and source.dataset in ("", stream.dataset)
        ]
        if jobs:
            mine[jobs[0]].add(source)
        else:
            unknown.append(source)
    found = [Lineage(job, settings.jobs[job], frozenset(mine[job])) for job in settings.jobs if job in mine]
    return found, sorted(unknown)
