"""Finds how to read a message of the quarantine today: the job that reads its topic, and that job's decoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.core.open_letters import Source
from pipelines.formats.base import WAREHOUSE
from pipelines.formats.registry import make_decoder
from pipelines.formats.shared.result import Decoder
from pipelines.reprocess.rows import RowsDecoder
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings, StreamSettings


@dataclass(frozen=True, slots=True)
class Lineage:
    """A job as it is configured now, and the partitions whose messages are replayed as the job's own.

    Attributes:
        job: its name.
        stream: its settings.
        sources: the partitions.
        formats: topic → format of its messages.
    """

    job: str
    stream: StreamSettings
    sources: frozenset[Source]
    formats: Mapping[str, str]

    def decoder(self, name: str, settings: Settings) -> Decoder:
        """Return the decoder of a format.

        Raises:
            SettingsError: the format cannot fill the dataset, or its profile is not valid.
        """
        if name == WAREHOUSE:
            return RowsDecoder(self.stream.dataset)
        return make_decoder(name, dataset=self.stream.dataset, stream=self.stream, settings=settings)


def lineages(settings: Settings, sources: Mapping[Source, str]) -> tuple[list[Lineage], list[Source]]:
    """Return the jobs that read the topics of these partitions, and the partitions that no job reads any more.

    A topic can be read into several datasets, each by its own job: the row in the quarantine names the dataset. Rows of
    a warehouse need no job, because the row in the quarantine says everything.

    Args:
        settings: of the home.
        sources: partition → the decoder that has rejected its messages.
    """
    of_job: dict[str, set[Source]] = defaultdict(set)
    unknown: list[Source] = []
    history: dict[str, set[Source]] = defaultdict(set)
    for source, decoder in sources.items():
        jobs = [
            name
            for name, stream in settings.jobs.items()
            if source.topic in stream.topics and source.dataset in ("", stream.dataset)
        ]
        if jobs:
            of_job[jobs[0]].add(source)
        elif decoder.partition("/")[0] == WAREHOUSE and source.dataset:
            history[source.dataset].add(source)
        else:
            unknown.append(source)
    streams = [
        Lineage(job, stream, frozenset(of_job[job]), stream.topics)
        for job, stream in settings.jobs.items()
        if job in of_job
    ]
    return streams + [_history(dataset, several) for dataset, several in sorted(history.items())], sorted(unknown)


def _history(dataset: str, sources: set[Source]) -> Lineage:
    """Return how to read rows of a warehouse: as load_history does, but without observations for the online store.

    Which codes the history job keeps out of the online store is not known here, so none of its observations go there.
    """
    care = not load_dataset(dataset).measures
    stream = StreamSettings(dataset=dataset, max_future_seconds=0, unset_clock_days=(), care=care)
    return Lineage("history", stream, frozenset(sources), {source.topic: WAREHOUSE for source in sources})
