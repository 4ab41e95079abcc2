"""Fills the online store again from the restricted zone, when it was lost or pseudonyms have changed."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.keyuse import open_vault
from governance.vault import Vault
from pipelines.core.open_letters import DEAD_LETTER, Choice, census, open_letters, resolved
from pipelines.core.poll import Outcome, Poll
from pipelines.formats.base import WAREHOUSE
from pipelines.intake.online_feed.feed import OnlineFeed
from pipelines.intake.steps import Steps, make_sealer
from pipelines.online_store.opening import open_online_store
from pipelines.reprocess.origins import lineages, shares_of_loads
from pipelines.reprocess.redecoding import Redecoder
from pipelines.republish.decisions import Ends, restore_decisions
from pipelines.republish.republish import open_restricted, restricted_datasets
from vitalake import clock
from vitalake.errors import ServiceUnavailable
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import EVERYTHING, OnlineShare, PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.tables.staging import Counted
from vitalake.lake.tables.table import StagedFile
from vitalake.settings import Settings

ORDER = ("device_association", "encounter", "ward_movement", "condition", "patient", "observation")
"""The datasets that the online store takes, in order. It takes no personal data of a patient without a stay.

Beds come before the stays: a stay that ended long ago is not stored, but it ends the beds that are stored.
"""

WITH_REJECTED = ("device_association", "condition", "observation")
"""The datasets of which the online store also takes what rejected messages were about."""

WRITER = "rebuild"
BATCH_ROWS = 50_000
ATTEMPTS = 5
"""How often the filling starts again when a file that it reads is rewritten."""


def rebuild_online_store(settings: Settings, *, counted: Counted | None = None) -> int:
    """Fill the online store with the restricted rows of the hours that it keeps; return how many rows were offered.

    Rows in the store stay, because lanes can be ahead of the lake. Of a value that comes twice the latest version
    counts, as always. Rejected messages of these hours are taken from the dead letters, because they end what was known
    before them. Decisions of clinicians are read from the audit. Patients under a pseudonym of another version of the
    key are deleted at the end. It is safe to repeat, and starts again when an erasure rewrites a file that it reads.

    Args:
        settings: of the home.
        counted: called with the number of rows that were offered.

    Raises:
        KeyRevoked: patients' keys are not available.
        ServiceUnavailable: lake, vault or online store cannot be reached; call it again.
    """
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError):
            return _rebuild(settings, counted=counted)
    raise ServiceUnavailable(
        "Tables are rewritten while they are read",
        where=str(settings.lake_uri),
        remedy="Run it again when no rewrite or erasure is under way.",
    )


def _rebuild(settings: Settings, *, counted: Counted | None) -> int:
    keys = Home(settings).keys
    vault = open_vault(settings, keys, purpose="rebuild-care")
    there, total, people, ends = restricted_datasets(settings), 0, set[str](), Ends()
    merges: list[tuple[int, str, str]] = []
    try:
        with closing(open_online_store(settings, keys, vault=vault)) as care:
            had = care.facts.decided()
            care.completeness.note_incomplete()  # until it is filled: a process that is killed leaves half a store
            care.drop(writer=_writer_name())
            since_us = care.time.now_us() - int(settings.care.hours * 3_600_000_000)
        for dataset in [name for name in ORDER if name in there]:
            lake = open_restricted(settings, dataset)
            sealer = make_sealer(lake.dataset, vault, keys)
            part = PartId(WRITER, uuid.uuid4().hex[:22], 0)
            with ExitStack() as opened_feeds:
                feeds = dict[OnlineShare, OnlineFeed]()
                sources = _sources(settings, lake)
                for source, rows in (pair for batch in _batches(lake, since_us) for pair in _by_source(batch, sources)):
                    if source.share not in feeds:
                        feed = OnlineFeed(settings, lake.dataset, keys, vault, share=source.share, again=True)
                        opened_feeds.enter_context(closing(feed))
                        feeds[source.share] = feed
                    opened = sealer.open(rows)
                    feeds[source.share].take(_outcome(opened, part, total, source.format))
                    ends.note(dataset, opened)
                    people.update(filter(None, pc.unique(opened["patient_id"]).to_pylist()))
                    total += rows.num_rows
                    if counted:
                        counted(rows.num_rows)
                merges += [merge for feed in feeds.values() for merge in feed.older_merges]
            if dataset in WITH_REJECTED:
                _tell_rejected(settings, dataset)
        current = keys.current("pseudonym").version
        with closing(open_online_store(settings, keys, vault=vault)) as care:
            care.drop(patients=[p for p in care.all_patients() if not p.startswith(f"{current}.")])
            for version, old, into in sorted(merges):  # merges of long ago: the number can be another patient's by now
                if care.patients.has(care.survivor(into)):
                    care.merge(old, into, version=version)
            _look_up_births(settings, keys, vault, there)
            care.completeness.note_filled(with_decisions=restore_decisions(settings, keys, care, people, had, ends))
    finally:
        vault.close()
    return total


@dataclass(frozen=True, slots=True)
class _Source:
    """What the online store gets of one source of rows, and in which format.

    Attributes:
        format: WAREHOUSE, or that of a topic; of topics it makes no difference which.
        share: which of its rows.
    """

    format: str = "fhir"
    share: OnlineShare = EVERYTHING


def _sources(settings: Settings, lake: Lake) -> dict[str, _Source | None]:
    """Return what the store gets of each source that the spans of a dataset name, by ``source`` of its rows.

    None: the jobs that read the topic today give the store nothing.
    """
    name = lake.dataset.name
    loads = shares_of_loads(lake.spans.all_spans()).items()
    found: dict[str, _Source | None] = {
        source: _Source(WAREHOUSE, share or EVERYTHING) for (dataset, source), share in loads if dataset == name
    }
    spans = (span for span in lake.spans.all_spans() if span.dataset == name)
    for part in {part.id for span in spans for part in span.parts if str(part.id) not in found}:
        jobs = [job for job in settings.jobs.values() if job.dataset == name and part.topic in job.topics]
        if jobs and not any(job.care for job in jobs):
            found[str(part)] = None
    return found


def _batches(lake: Lake, since_us: int) -> Iterator[pa.Table]:
    """Yield the restricted rows that can matter: only those of the last days where a table is partitioned by day."""
    table = lake.restricted
    table.refresh()
    first = str(datetime.fromtimestamp(since_us / 1e6, UTC).date())

    def matters(file: StagedFile) -> bool:
        return not lake.dataset.measures or file.day is None or file.day >= first

    for file in sorted(filter(matters, table.snapshot().files.values()), key=lambda file: (str(file.day), file.path)):
        for batch in read_file(table, file):
            for begin in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(begin, BATCH_ROWS)


def _by_source(rows: pa.Table, sources: Mapping[str, _Source | None]) -> Iterator[tuple[_Source, pa.Table]]:
    """Yield rows together that the store gets in the same way, without those that it does not get."""
    together: dict[_Source, list[str]] = defaultdict(list)
    for name in pc.unique(rows["source"]).to_pylist():
        if (source := sources.get(name, _Source())) is not None:
            together[source].append(name)
    for source, names in together.items():
        yield source, rows.filter(pc.field("source").isin(names))


def _tell_rejected(settings: Settings, dataset: str) -> None:
    """Hand the online store what open rejected messages of its hours were about.

    Args:
        settings: of the home.
        dataset: for which they were rejected.
    """
    since = (clock.now() - timedelta(hours=settings.care.hours)).date().isoformat()
    lake, choice = Home(settings).lake(), Choice(since=since)
    jobs, _ = lineages(settings, census(lake, DEAD_LETTER, choice).decoders, lake.spans.all_spans())
    done = resolved(lake, DEAD_LETTER)
    part, first = PartId(WRITER, uuid.uuid4().hex[:22], 0), 0
    for lineage in (one for one in jobs if one.stream.dataset == dataset and one.stream.care):
        of_job = replace(choice, sources=lineage.sources)
        steps = Steps(settings, lineage.stream, load_dataset(dataset), online=lineage.share, purpose="rebuild-care")
        with closing(steps):
            redecoder = Redecoder(settings, lineage, steps, job=_writer_name())
            for letters in open_letters(lake, DEAD_LETTER, of_job, done=done):
                for attempt in redecoder.attempts(letters, table=DEAD_LETTER, mask=False):
                    steps.tell_rejected(attempt.outcome, part=part, first=first)
                    first += attempt.letters.num_rows


def _look_up_births(settings: Settings, keys: KeyRing, vault: Vault, there: Collection[str]) -> None:
    """Take birth dates from the vault for patients known only by their results: the lake has no column for them."""
    for dataset in [name for name in ORDER if name in there][:1]:
        with closing(OnlineFeed(settings, open_restricted(settings, dataset).dataset, keys, vault)) as feed:
            feed.look_up_all()


def _writer_name() -> str:
    return f"{WRITER}/0of1"


def _outcome(rows: pa.Table, part: PartId, first: int, form: str = "fhir") -> Outcome:
    """Return identified rows as an outcome, each as a message of its own, of a partition that was never read.

    When a message arrived at the broker is not stored; the time when the lake took it in is used instead.
    """
    count = rows.num_rows
    poll = Poll(
        _writer_name(), form, [None] * count, (part,), np.zeros(count, np.int32), np.arange(first, first + count),
        rows["ingested_at"].cast(pa.int64()).fill_null(0).to_numpy() // 1000, np.ones(count, np.bool_),
    )  # fmt: skip
    batches = rows.combine_chunks().to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
    message = np.arange(count, dtype=np.int32)
    return Outcome(
        poll=poll, rows=batch, message=message, row_message=message, rejects=[], tombstones=[],
        fingerprints=np.zeros((0, 2), np.uint64), effective_us=np.zeros(count, np.int64),
    )  # fmt: skip
