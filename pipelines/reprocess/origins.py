"""Finds how to read a message of the quarantine today: the job that reads its topic, and that job's decoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines.core.open_letters import Source
from pipelines.formats.base import WAREHOUSE
from pipelines.formats.registry import make_decoder
from pipelines.formats.shared.result import Decoder
from pipelines.reprocess.rows import RowsDecoder
from vitalake.lake.commits.span import EVERYTHING, OnlineShare, Span
from vitalake.settings import Settings, StreamSettings


@dataclass(frozen=True, slots=True)
class Lineage:
    """A job as it is configured now, and the partitions whose messages are replayed as the job's own.

    Attributes:
        job: its name.
        stream: its settings.
        sources: the partitions.
        formats: topic → format of its messages.
        share: which of the rows go to the online store.
    """

    job: str
    stream: StreamSettings
    sources: frozenset[Source]
    formats: Mapping[str, str]
    share: OnlineShare = EVERYTHING

    def decoder(self, name: str, settings: Settings) -> Decoder:
        """Return the decoder of a format.

        Raises:
            SettingsError: the format cannot fill the dataset, or its profile is not valid.
        """
        if name == WAREHOUSE:
            return RowsDecoder(self.stream.dataset)
        return make_decoder(name, dataset=self.stream.dataset, stream=self.stream, settings=settings)


def lineages(
    settings: Settings, sources: Mapping[Source, str], spans: Iterable[Span]
) -> tuple[list[Lineage], list[Source]]:
    """Return the jobs that read the topics of these partitions, and the partitions that no job reads any more.

    A topic can be read into several datasets, each by its own job: the row in the quarantine names the dataset. Rows of
    a warehouse need no job, because the row in the quarantine says everything.

    Args:
        settings: of the home.
        sources: partition → the decoder that has rejected its messages.
        spans: of the lake; read only if rows of a warehouse are among the messages.
    """
    of_job: dict[str, set[Source]] = defaultdict(set)
    unknown: list[Source] = []
    history: list[Source] = []
    for source, decoder in sources.items():
        jobs = [
            name
            for name, stream in settings.jobs.items()
            if source.topic in stream.topics and source.dataset in ("", stream.dataset)
        ]
        if jobs:
            of_job[jobs[0]].add(source)
        elif decoder.partition("/")[0] == WAREHOUSE and source.dataset:
            history.append(source)
        else:
            unknown.append(source)
    streams = [
        Lineage(job, stream, frozenset(of_job[job]), stream.topics)
        for job, stream in settings.jobs.items()
        if job in of_job
    ]
    shares = _shares(spans) if history else {}
    alike: dict[tuple[str, OnlineShare], set[Source]] = defaultdict(set)
    for source in history:
        alike[source.dataset, shares.get((source.dataset, source.source), EVERYTHING)].add(source)
    ordered = sorted(alike.items(), key=str)
    return streams + [_history(dataset, share, of_both) for (dataset, share), of_both in ordered], sorted(unknown)


def is_of_warehouse(span: Span) -> bool:
    """Return whether a load has decided a span."""
    return span.kind == "stream" and span.decoder.partition("/")[0] == WAREHOUSE


def _shares(spans: Iterable[Span]) -> dict[tuple[str, str], OnlineShare]:
    """Return which rows of a warehouse go to the online store, as its last load says, by dataset and ``source``."""
    loads = sorted(filter(is_of_warehouse, spans), key=lambda span: span.load_us)
    return {(span.dataset, str(part.id)): span.online for span in loads for part in span.parts}


def _history(dataset: str, share: OnlineShare, sources: set[Source]) -> Lineage:
    """Return how to read rows of a warehouse: as load_history does."""
    stream = StreamSettings(dataset=dataset, max_future_seconds=0, unset_clock_days=())
    formats = {source.topic: WAREHOUSE for source in sources}
    return Lineage("history", stream, frozenset(sources), formats, share)
