"""The audit: counts again what the ledger says, from Parquet footers and from the broker itself."""

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
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.spans import PartId, Span, is_added
from vitalake.lake.datasets.declared import quarantine_datasets
from vitalake.lake.maintenance.rewrite import rows_app
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

TIMEOUT_SECONDS = 15.0
"""How long the broker may be silent before the recount of a partition is given up."""

_BATCH = 10_000
_POLL_SECONDS = 0.2
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001  (librdkafka's mark for the client's own codes; public)


@dataclass(slots=True)
class Stretch:
    """What one added span says of one partition."""

    start: int
    end: int
    messages: int


@dataclass(slots=True)
class _Claimed:
    """What the spans that are added everywhere say."""

    rows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    stretches: dict[PartId, list[Stretch]] = field(default_factory=lambda: defaultdict(list))
    pending: int = 0


def audit(
    settings: Settings, job: str | None = None, *, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Return the recount as data: ``agrees``, ``checks`` (what, ledger, recounted, agrees), ``not_recounted``.

    Rows are recounted from the footers of all files of the tables, which all jobs of the dataset share. Messages are
    recounted by reading each partition as the lane does (read_committed), from where its log begins. Only spans that
    are added everywhere are held against either.

    Args:
        settings: the home's.
        job: whose partitions to read from the broker; None takes all jobs'.
        progress: told what is being recounted.

    Raises:
        BrokerUnreachable: no broker answers.
        SettingsError: there is no such job.
    """
    if job is not None and job not in settings.jobs:
        raise SettingsError("Unknown job", where=job, remedy=f"The configuration has: {', '.join(settings.jobs)}.")
    tell = progress or (lambda _: None)
    checks: list[dict[str, Any]] = []
    not_recounted: list[str] = []
    names = [job] if job else list(settings.jobs)
    for dataset in sorted({settings.jobs[name].dataset for name in names}):
        lake = Home(settings).lake(dataset)
        tables = {table.name: _recount_rows(table) for table in _tables(lake) if not tell(f"Recounting {table.name}")}
        claimed = _claims(lake, names)
        for table, rows in tables.items():
            checks.append(_check(f"rows of {table}", claimed.rows[table], rows))
        if claimed.pending:
            not_recounted.append(f"{claimed.pending} spans that are decided and not added yet")
        broker_checks, remarks = recount_messages(settings, claimed.stretches, tell)
        checks += broker_checks
        not_recounted += remarks
    return {"agrees": all(check["agrees"] for check in checks), "checks": checks, "not_recounted": not_recounted}


def _check(what: str, ledger: int, recounted: int) -> dict[str, Any]:
    return {"what": what, "ledger": ledger, "recounted": recounted, "agrees": ledger == recounted}


# -- rows --------------------------------------------------------------------------------------------------------


def _tables(lake: Lake) -> list[Table]:
    """Return the tables that spans of the dataset add to, and what else of the quarantine is there."""
    quarantine = (f"quarantine/{name}" for name in quarantine_datasets())
    others = [lake.table(name) for name in quarantine if lake.storage.holds_table(name)]
    return list(dict.fromkeys([*lake.tables, *others]))


def _recount_rows(table: Table) -> int:
    """Return the rows of a table by the footers of its files: neither the log's numbers nor the ledger's."""
    table.refresh()
    total = 0
    for path in table.snapshot().files:
        with table.storage.open(path) as file:
            total += file.metadata.num_rows
    # What rewrites have dropped (expired, or of a patient who was forgotten) was counted when it was added.
    return total - (table.transaction(rows_app(table)) or 0)


def _claims(lake: Lake, jobs: Sequence[str]) -> _Claimed:
    """Sum up the spans; they are read after the tables, so that whatever those hold was decided before."""
    claimed, tables = _Claimed(), _tables(lake)
    for span in lake.spans.all_spans():
        added = [table for table in tables if is_added(span, table) or not span.files_of(table.name)]
        for table in added:
            claimed.rows[table.name] += _counted_rows(span, table, lake)
        if len(added) < len(tables):
            claimed.pending += 1
        elif span.job in jobs and span.dataset == lake.dataset.name:
            for part in span.parts:
                read = part.counts.messages - part.counts.lost_upstream
                start = part.first if part.start is None else part.start
                claimed.stretches[part.id].append(Stretch(start, part.end, read))
    return claimed


def _counted_rows(span: Span, table: Table, lake: Lake) -> int:
    """Return the rows the ledger counts for a table.

    Of the dead letters the ledger counts the rows of a rejected message, and they are one a message: there the
    span's own list of files tells.
    """
    if table is lake.published:
        return sum(part.counts.published for part in span.parts) if span.dataset == lake.dataset.name else 0
    return sum(file.rows for file in span.files_of(table.name))


# -- messages ----------------------------------------------------------------------------------------------------


def recount_messages(
    settings: Settings, stretches: dict[PartId, list[Stretch]], tell: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a check for each partition the broker still holds, and what could not be recounted.

    Raises:
        BrokerUnreachable: no broker answers.
    """
    checks: list[dict[str, Any]] = []
    remarks: list[str] = []
    options = client_options(settings)
    living = _living(options, sorted({part.topic for part in stretches}))
    with closing(_Reader(options)) as reader:
        for part, claimed in sorted(stretches.items()):
            if part not in living:
                remarks.append(f"{part}: the topic it was read from is gone")
                continue
            tell(f"Recounting {part}")
            low = reader.first(part)
            whole = [stretch for stretch in claimed if stretch.start >= low and stretch.start < stretch.end]
            lost = sum(stretch.messages for stretch in claimed if stretch.start < low)
            if lost:
                remarks.append(f"{part}: {lost} messages, for the log now begins at {low}")
            if whole:
                recounted = reader.count(part, whole)
                checks.append(_check(f"messages of {part}", sum(s.messages for s in whole), int(recounted.sum())))
                checks[-1]["spans_that_differ"] = sum(
                    stretch.messages != found for stretch, found in zip(whole, recounted.tolist(), strict=True)
                )
                checks[-1]["agrees"] &= checks[-1]["spans_that_differ"] == 0
    return checks, remarks


def _living(options: dict[str, Any], topics: list[str]) -> set[PartId]:
    living: set[PartId] = set()
    with AdminClient(options) as admin:
        for topic in topics:
            try:
                living |= set(list_partitions(admin, [topic]))
            except TopicMissing:
                continue
    return living


class _Reader:
    """Counts the messages a partition holds."""

    def __init__(self, options: dict[str, Any]) -> None:
        own = {"group.id": "vitalake-audit", "enable.auto.commit": False, "isolation.level": "read_committed"}
        own |= {"enable.partition.eof": True, "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 10}
        self._consumer = Consumer(own | options)

    def close(self) -> None:
        self._consumer.close()

    def first(self, part: PartId) -> int:
        """Return the first offset the log holds."""
        try:
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(part.topic, part.partition), TIMEOUT_SECONDS)
        except KafkaException:
            raise _silent(part) from None
        return int(low)

    def count(self, part: PartId, stretches: list[Stretch]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return how many messages lie in each of the stretches."""
        stretches.sort(key=lambda stretch: stretch.start)
        starts, ends = np.array([s.start for s in stretches]), np.array([s.end for s in stretches])
        found = np.zeros(len(stretches), np.int64)
        self._consumer.assign([TopicPartition(part.topic, part.partition, int(starts[0]))])
        at_end, deadline = False, time.monotonic() + TIMEOUT_SECONDS
        while not at_end:
            messages = self._consumer.consume(_BATCH, _POLL_SECONDS)
            if not messages and time.monotonic() > deadline:
                raise _silent(part)
            if not messages:
                continue
            deadline = time.monotonic() + TIMEOUT_SECONDS
            offsets = np.array([m.offset() for m in messages if m.error() is None], np.int64)
            at_end = any(_is_end(m.error(), part) for m in messages) or bool(len(offsets) and offsets[-1] >= ends.max())
            index = np.searchsorted(starts, offsets, side="right") - 1
            inside = (index >= 0) & (offsets < ends[index])
            found += np.bincount(index[inside], minlength=len(stretches))
        self._consumer.unassign()
        return found


def _is_end(error: KafkaError | None, part: PartId) -> bool:
    if error is None:
        return False
    if error.code() != _EOF:
        raise _silent(part)
    return True


def _silent(part: PartId) -> BrokerUnreachable:
    return BrokerUnreachable(
        "Broker does not answer", where=str(part), remedy="Start it, or leave out --audit: nothing was changed."
    )
