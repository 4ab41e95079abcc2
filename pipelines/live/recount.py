"""Checks the ledger: counts its rows again in the Parquet footers, and its messages again at the broker."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipelines.core.errors import BrokerUnreachable, TopicMissing
from pipelines.core.kafka import client_options, list_partitions
from vitalake.errors import SettingsError
from vitalake.home import Home
from vitalake.lake.commits.adding import is_added
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId, Span
from vitalake.lake.commits.transactions import rows_app
from vitalake.lake.datasets.declared import quarantine_datasets
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

TIMEOUT_SECONDS = 15.0
"""How long the broker may send nothing before the recount of a partition fails."""

_BATCH = 10_000
_POLL_SECONDS = 0.2
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001  (the underscore marks codes of the client itself; they are public)


@dataclass(slots=True)
class Stretch:
    """The offsets of one partition that one committed span covers, and how many messages it counts there."""

    start: int
    end: int
    messages: int


@dataclass(slots=True)
class _LedgerSums:
    """Sums over the spans that are added to all tables.

    Attributes:
        rows: table → rows.
        stretches: partition → what each span covers of it.
        pending: spans that are decided and not added everywhere yet.
    """

    rows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    stretches: dict[PartId, list[Stretch]] = field(default_factory=lambda: defaultdict(list))
    pending: int = 0


def recount(
    settings: Settings, job: str | None = None, *, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Count rows and messages again, and compare them with the ledger.

    Returns ``agrees``, ``checks`` (what, ledger, recounted, agrees) and ``not_recounted``. Rows are counted in the
    footers of all files of the tables, which all jobs of the dataset share. Messages are counted by reading each
    partition as the lane does (read_committed), from the first offset that Kafka still has. Only spans that are added
    to all tables are compared.

    Args:
        settings: of the home.
        job: whose partitions are read from the broker; None reads those of all jobs.
        progress: called with what is being counted.

    Raises:
        BrokerUnreachable: no broker answers.
        SettingsError: there is no such job.
    """
    if job is not None and job not in settings.jobs:
        raise SettingsError("Unknown job", where=job, remedy=f"The configuration has: {', '.join(settings.jobs)}.")
    report = progress or (lambda _: None)
    checks: list[dict[str, Any]] = []
    not_recounted: list[str] = []
    names = [job] if job else list(settings.jobs)
    for dataset in sorted({settings.jobs[name].dataset for name in names}):
        lake = Home(settings).lake(dataset)
        counted = dict[str, int]()
        for table in _tables(lake):
            report(f"Recounting {table.name}")
            counted[table.name] = _recount_rows(table)
        sums = _sum_spans(lake, names)
        for name, rows in counted.items():
            checks.append(_check(f"rows of {name}", sums.rows[name], rows))
        if sums.pending:
            not_recounted.append(f"{sums.pending} spans that are decided and not added yet")
        broker_checks, remarks = recount_messages(settings, sums.stretches, report)
        checks += broker_checks
        not_recounted += remarks
    return {"agrees": all(check["agrees"] for check in checks), "checks": checks, "not_recounted": not_recounted}


def _check(what: str, ledger: int, recounted: int) -> dict[str, Any]:
    return {"what": what, "ledger": ledger, "recounted": recounted, "agrees": ledger == recounted}


# -- rows --------------------------------------------------------------------------------------------------------


def _tables(lake: Lake) -> list[Table]:
    """Return the tables that spans of the dataset add rows to, and the other tables of the quarantine that exist."""
    quarantine = (f"quarantine/{name}" for name in quarantine_datasets())
    others = [lake.table(name) for name in quarantine if lake.storage.holds_table(name)]
    return list(dict.fromkeys([*lake.tables, *others]))


def _recount_rows(table: Table) -> int:
    """Return the rows of a table by the footers of its files, independently of the Delta log and of the ledger."""
    table.refresh()
    total = 0
    for path in table.snapshot().files:
        with table.storage.open(path) as file:
            total += file.metadata.num_rows
    # Rows that a rewrite has dropped (expired, or of a patient who was erased) are in the ledger: count them too.
    return total - (table.transaction(rows_app(table.name)) or 0)


def _sum_spans(lake: Lake, jobs: Sequence[str]) -> _LedgerSums:
    """Sum up the spans; called after the tables are counted, so that every row counted there has its span here."""
    sums, tables = _LedgerSums(), _tables(lake)
    for span in lake.spans.all_spans():
        added = [table for table in tables if is_added(span, table) or not span.files_of(table.name)]
        for table in added:
            sums.rows[table.name] += _counted_rows(span, table, lake)
        if len(added) < len(tables):
            sums.pending += 1
        elif span.job in jobs and span.dataset == lake.dataset.name:
            for part in span.parts:
                read = part.counts.messages - part.counts.lost_upstream
                start = part.first if part.start is None else part.start
                sums.stretches[part.id].append(Stretch(start, part.end, read))
    return sums


def _counted_rows(span: Span, table: Table, lake: Lake) -> int:
    """Return the rows that the ledger counts for a table.

    The ledger counts how many rows a rejected message would have had, but the dead letters have one row per message.
    For them, and for every table but the published one, the rows in the span's list of files count.
    """
    if table is lake.published:
        return sum(part.counts.published for part in span.parts) if span.dataset == lake.dataset.name else 0
    return sum(file.rows for file in span.files_of(table.name))


# -- messages ----------------------------------------------------------------------------------------------------


def recount_messages(
    settings: Settings, stretches: dict[PartId, list[Stretch]], report: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a check for each partition that the broker still has, and sentences on what could not be counted.

    Raises:
        BrokerUnreachable: no broker answers.
    """
    checks: list[dict[str, Any]] = []
    remarks: list[str] = []
    options = client_options(settings)
    existing = _existing_partitions(options, sorted({part.topic for part in stretches}))
    with closing(_Reader(options)) as reader:
        for part, covered in sorted(stretches.items()):
            if part not in existing:
                remarks.append(f"{part}: the topic from which it was read was deleted")
                continue
            report(f"Recounting {part}")
            low = reader.first(part)
            whole = [stretch for stretch in covered if stretch.start >= low and stretch.start < stretch.end]
            lost = sum(stretch.messages for stretch in covered if stretch.start < low)
            if lost:
                remarks.append(f"{part}: {lost} messages, because the log now begins at {low}")
            if whole:
                recounted = reader.count(part, whole)
                checks.append(_check(f"messages of {part}", sum(s.messages for s in whole), int(recounted.sum())))
                checks[-1]["spans_that_differ"] = sum(
                    stretch.messages != count for stretch, count in zip(whole, recounted.tolist(), strict=True)
                )
                checks[-1]["agrees"] &= checks[-1]["spans_that_differ"] == 0
    return checks, remarks


def _existing_partitions(options: dict[str, Any], topics: list[str]) -> set[PartId]:
    existing: set[PartId] = set()
    with AdminClient(options) as admin:
        for topic in topics:
            try:
                existing |= set(list_partitions(admin, [topic]))
            except TopicMissing:
                continue
    return existing


class _Reader:
    """Counts the messages of a partition by reading them."""

    def __init__(self, options: dict[str, Any]) -> None:
        own = {"group.id": "vitalake-audit", "enable.auto.commit": False, "isolation.level": "read_committed"}
        own |= {"enable.partition.eof": True, "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 10}
        self._consumer = Consumer(own | options)

    def close(self) -> None:
        self._consumer.close()

    def first(self, part: PartId) -> int:
        """Return the first offset that Kafka still has of a partition."""
        try:
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(part.topic, part.partition), TIMEOUT_SECONDS)
        except KafkaException:
            raise _no_answer(part) from None
        return int(low)

    def count(self, part: PartId, stretches: list[Stretch]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return how many messages lie in each of the stretches."""
        stretches.sort(key=lambda stretch: stretch.start)
        starts, ends = np.array([s.start for s in stretches]), np.array([s.end for s in stretches])
        counts = np.zeros(len(stretches), np.int64)
        self._consumer.assign([TopicPartition(part.topic, part.partition, int(starts[0]))])
        at_end, deadline = False, time.monotonic() + TIMEOUT_SECONDS
        while not at_end:
            messages = self._consumer.consume(_BATCH, _POLL_SECONDS)
            if not messages and time.monotonic() > deadline:
                raise _no_answer(part)
            if not messages:
                continue
            deadline = time.monotonic() + TIMEOUT_SECONDS
            offsets = np.array([m.offset() for m in messages if m.error() is None], np.int64)
            at_end = any(_is_end(m.error(), part) for m in messages) or bool(len(offsets) and offsets[-1] >= ends.max())
            index = np.searchsorted(starts, offsets, side="right") - 1
            inside = (index >= 0) & (offsets < ends[index])
            counts += np.bincount(index[inside], minlength=len(stretches))
        self._consumer.unassign()
        return counts


def _is_end(error: KafkaError | None, part: PartId) -> bool:
    if error is None:
        return False
    if error.code() != _EOF:
        raise _no_answer(part)
    return True


def _no_answer(part: PartId) -> BrokerUnreachable:
    return BrokerUnreachable(
        "Broker does not answer", where=str(part), remedy="Start it, or leave out --audit. Nothing was changed."
    )
