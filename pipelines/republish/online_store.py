"""Fills the online store again from the restricted zone, when it was lost or pseudonyms have changed."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator
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
from pipelines.reprocess.origins import is_of_warehouse, lineages
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
                ways = _Ways(lake)
                for way, rows in (pair for batch in _batches(lake, since_us) for pair in ways.split(batch)):
                    if way.share not in feeds:
                        feed = OnlineFeed(settings, lake.dataset, keys, vault, share=way.share, again=True)
                        opened_feeds.enter_context(closing(feed))
                        feeds[way.share] = feed
                    opened = sealer.open(rows)
                    feeds[way.share].take(_outcome(opened, part, total, way.format))
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
            care.begin_pseudonyms(current)
            for version, old, into in sorted(merges):  # merges of long ago: the number can be another patient's by now
                if care.patients.has(care.survivor(into)):
                    care.merge(old, into, version=version)
            _look_up_births(settings, keys, vault, there)
            care.completeness.note_filled(with_decisions=restore_decisions(settings, keys, care, people, had, ends))
    finally:
        vault.close()
    return total


@dataclass(frozen=True, slots=True)
class _Way:
    """In which format rows came, and which of them went to the online store."""

    format: str = "fhir"  # or WAREHOUSE; of topics it makes no difference which
    share: OnlineShare = EVERYTHING


@dataclass(slots=True)
class _Stretch:
    """Messages of one incarnation of a partition that came the same way: from ``start`` up to ``end``, exclusive."""

    topic_id: str
    start: int
    end: int
    way: _Way


class _Ways:
    """The way of each row of a dataset, as the span says that read its message."""

    def __init__(self, lake: Lake) -> None:
        """Read all spans."""
        self._stretches: dict[str, list[_Stretch]] = defaultdict(list)
        for span in lake.spans.all_spans():
            if span.dataset != lake.dataset.name or span.kind != "stream":
                continue
            way = _Way(WAREHOUSE, span.online) if is_of_warehouse(span) else _Way(share=span.online)
            for part in span.parts:
                here = self._stretches[str(part.id)]
                if here and (here[-1].topic_id, here[-1].way) == (part.id.topic_id, way):
                    here[-1].start, here[-1].end = min(here[-1].start, part.first), max(here[-1].end, part.end)
                else:
                    here.append(_Stretch(part.id.topic_id, part.first, part.end, way))

    def split(self, rows: pa.Table) -> Iterator[tuple[_Way, pa.Table]]:
        """Yield rows together that came the same way, without those of which nothing goes to the store.

        Rows do not say of which incarnation of their topic they are: the latest that has their position counts.
        """
        ways = [_Way()]
        sources = rows["source"].combine_chunks().dictionary_encode()
        source, position = sources.indices.to_numpy(), rows["source_position"].fill_null(-1).to_numpy()
        which = np.zeros(rows.num_rows, np.int64)
        for number, name in enumerate(sources.dictionary.to_pylist()):
            for one in self._stretches.get(name, ()):
                if one.way not in ways:
                    ways.append(one.way)
                which[(source == number) & (position >= one.start) & (position < one.end)] = ways.index(one.way)
        for number, way in enumerate(ways):
            mine = which == number
            if mine.any() and not way.share.nothing:
                yield way, rows.filter(pa.array(mine))


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
