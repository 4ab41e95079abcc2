"""The ledger: the sum of what all spans count of messages and rows, and whether the counts are consistent."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from vitalake.lake.commits.latency import quantile
from vitalake.lake.commits.span import COUNT_NAMES, Counts, Part, PartId, Span, from_row
from vitalake.lake.commits.span_log import SpanLog
from vitalake.lake.commits.transactions import REPAIRED

MOST_PROBLEMS = 20
"""Problems that are listed; the others are only counted."""

Grouping = Literal["partition", "hour", "job"]

AGAIN = {"replay": "recovered", "attribution": "attributed"}
"""Kinds of spans whose messages or rows were read before → the name of the count of rows that they publish.

The totals count every message once, in the span that first read it; an undecodable or held message stays counted as
such. Rows that were published from it later are counted separately, so the number of all published rows is
``published + recovered + attributed``."""


@dataclass(slots=True)
class Entry:
    """The counts of the messages and rows of one group of spans.

    Attributes:
        counts: of the messages that were read; in an entry of a replay's own job or partition, of those it read again.
        recovered: rows published by replays.
        attributed: rows published once their patient was known, or was corrected.
        spans: the number of spans.
        latency: histogram of the time from the broker to the decision.
        unfit: dataset.column → published rows in which the column is null because it may not hold the sent value.
        mapped, unmapped: local code (with the code it was mapped to) → rows that came with it.
    """

    counts: Counts = field(default_factory=Counts)
    recovered: int = 0
    attributed: int = 0
    spans: int = 0
    latency: dict[int, int] = field(default_factory=dict)
    unfit: dict[str, int] = field(default_factory=dict)
    mapped: dict[str, int] = field(default_factory=dict)
    unmapped: dict[str, int] = field(default_factory=dict)

    def to_json(self, mapped: Collection[str] = ()) -> dict[str, Any]:
        """Return the counts, whether they balance, and the latency where it is known.

        Args:
            mapped: local codes that are mapped by now; they are left out of ``unmapped``.
        """
        document: dict[str, Any] = {name: getattr(self.counts, name) for name in COUNT_NAMES}
        return document | {
            "recovered": self.recovered,
            "attributed": self.attributed,
            "spans": self.spans,
            "balanced": self.counts.balanced,
            "unfit": dict(sorted(self.unfit.items())),
            "mapped": dict(sorted(self.mapped.items())),
            "unmapped": {code: count for code, count in sorted(self.unmapped.items()) if code not in mapped},
            "latency_ms": {name: _milliseconds(self.latency, q) for name, q in (("p50", 0.5), ("p99", 0.99))},
        }


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def _milliseconds(latency: dict[int, int], q: float) -> float | None:
    value = quantile(latency, q)
    return None if math.isnan(value) else round(value, 1)


class Chain:
    """The stretches of one partition, added in any order: finds gaps and overlaps between them."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.end = 0
        self.overlaps: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add a stretch; of an empty one only the end counts."""
        if start <= end:
            self.end = max(self.end, end)
        if start >= end:
            return
        # The new stretch touches those in [first, last): the one before may reach into it, later ones may begin in it.
        first = bisect.bisect_left(self._starts, start)
        last = bisect.bisect_right(self._starts, end, lo=first)
        if first > 0 and self._ends[first - 1] >= start:
            first -= 1
        touched = list(zip(self._starts[first:last], self._ends[first:last], strict=True))
        if any(other_start < end and start < other_end for other_start, other_end in touched):
            self.overlaps.append(start)
        self._starts[first:last] = [min([start, *(other for other, _ in touched)])]
        self._ends[first:last] = [max([end, *(other for _, other in touched)])]

    def is_free(self, start: int, end: int) -> bool:
        """Return whether no stretch has any of these positions."""
        first = bisect.bisect_right(self._ends, start)
        return first == len(self._starts) or self._starts[first] >= end

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Return the gaps between the stretches, as (begin, end)."""
        return list(zip(self._ends[:-1], self._starts[1:], strict=True))


class Ledger:
    """The sum of spans; they are added in any order, each once."""

    def __init__(self) -> None:
        self.total = Entry()
        self.groups: dict[Grouping, dict[str, Entry]] = {"partition": {}, "hour": {}, "job": {}}
        self.last_commit_us = 0
        self.lost_unknown: set[str] = set()
        self.unbalanced: list[str] = []
        self._chains: dict[tuple[str, PartId], Chain] = {}
        self._names: dict[PartId, str] = {}

    def add(self, span: Span) -> None:
        """Add a span."""
        hour = datetime.fromtimestamp(span.decided_us // 3_600_000_000 * 3600, tz=UTC).strftime("%Y-%m-%dT%H:00Z")
        entries = [self.total, self._entry("hour", hour), self._entry("job", span.job)]
        for entry in entries:
            entry.spans += 1
            for bucket, count in span.latency.items():
                entry.latency[bucket] = entry.latency.get(bucket, 0) + count
        self.last_commit_us = max(self.last_commit_us, span.decided_us)
        own = self._entry("job", span.job)
        for part in span.parts:
            mine = self._entry("partition", self._name(part.id))
            mine.spans += 1
            if name := AGAIN.get(span.kind):
                for entry in (*entries, mine):
                    setattr(entry, name, getattr(entry, name) + part.counts.published)
            for entry in (own, mine) if span.kind in AGAIN else (*entries, mine):
                entry.counts.add(part.counts)
            for name, count in part.unfit.items():
                for entry in (*entries, mine):
                    column = f"{span.dataset}.{name}"
                    entry.unfit[column] = entry.unfit.get(column, 0) + count
            for entry in (*entries, mine):
                _add(entry.mapped, part.mapped)
                _add(entry.unmapped, part.unmapped)
            self._check_part(span.dataset, part)

    def _entry(self, grouping: Grouping, name: str) -> Entry:
        return self.groups[grouping].setdefault(name, Entry())

    def _check_part(self, dataset: str, part: Part) -> None:
        start = part.first if part.start is None else part.start
        if not part.counts.balanced or part.counts.messages > part.end - start:
            self.unbalanced.append(f"{part.id}@{start}-{part.end}")
        if part.lost_unknown:
            self.lost_unknown.add(self._name(part.id))
        self._chains.setdefault((dataset, part.id), Chain()).add(start, part.end)

    def _name(self, part: PartId) -> str:
        """Return ``topic[partition]``, with the topic's id if a topic of that name was made more than once."""
        if part not in self._names:
            taken = set(self._names.values())
            self._names[part] = str(part) if str(part) not in taken else f"{part}#{part.topic_id}"
        return self._names[part]

    @property
    def ends(self) -> dict[str, int]:
        """Return the end of each partition's last stretch, by the partition's application id."""
        return {part.app_id(dataset): chain.end for (dataset, part), chain in self._chains.items()}

    @property
    def problems(self) -> list[str]:
        """Return what is inconsistent: counts that contradict each other, gaps and overlaps of positions."""
        problems = [f"counts do not balance: {where}" for where in self.unbalanced]
        for (_, part), chain in sorted(self._chains.items()):
            problems += [f"positions overlap: {part}@{start}" for start in chain.overlaps]
            problems += [f"positions have a gap: {part}@{start}-{end}" for start, end in chain.gaps]
        return problems

    def to_json(self, by: Grouping | None = None, mapped: Collection[str] = ()) -> dict[str, Any]:
        """Return the summary as data for a program.

        The keys are those of ``spans.COUNT_NAMES`` and: recovered, attributed, balanced, unfit, mapped, unmapped,
        latency_ms, spans, last_commit_at, lost_upstream_unknown (partitions that ended with an unread part of unknown
        length), problems, problems_found, by_….

        Args:
            by: the one grouping to include; None: all of them.
            mapped: as of ``Entry.to_json``.
        """
        problems = self.problems
        last = datetime.fromtimestamp(self.last_commit_us / 1e6, tz=UTC) if self.last_commit_us else None
        return self.total.to_json(mapped) | {
            "balanced": not problems,
            "last_commit_at": last.isoformat(timespec="milliseconds") if last else None,
            "lost_upstream_unknown": sorted(self.lost_unknown),
            "problems": problems[:MOST_PROBLEMS],
            "problems_found": len(problems),
            **{
                f"by_{grouping}": {name: entry.to_json(mapped) for name, entry in sorted(entries.items())}
                for grouping, entries in self.groups.items()
                if by in (None, grouping)
            },
        }


class LiveLedger:
    """A ledger that follows the spans table: each refresh reads only files that it has not read before."""

    def __init__(self, spans: SpanLog, *, job: str | None = None) -> None:
        self._spans, self._job = spans, job
        self._begin(None)

    def _begin(self, repaired: int | None) -> None:
        self.ledger = Ledger()
        self._files: set[str] = set()
        self._span_ids: set[str] = set()
        self._version: int | None = None
        self._repaired = repaired

    def refresh(self) -> Ledger:
        """Return the ledger as of the table's newest version."""
        table = self._spans.table
        table.refresh()
        if table.delta.version() == self._version:
            return self.ledger
        if (repaired := table.transaction(REPAIRED)) != self._repaired:  # spans can be gone
            self._begin(repaired)
        paths = set(pa.table(table.delta.get_add_actions())["path"].to_pylist())
        for path in sorted(paths - self._files):
            self._read(path)
        self._files, self._version = paths, table.delta.version()
        return self.ledger

    def _read(self, path: str) -> None:
        """Add the spans of a file; a compacted file holds many that were added already."""
        try:
            opened = self._spans.table.storage.open(path)
        except FileNotFoundError as error:
            raise self._spans.table.lost_file() or error from None
        with opened as file:
            for batch in file.iter_batches(columns=self._spans.table.dataset.schema.names):
                ids = batch.column("span_id").to_pylist()
                new = [i for i, span_id in enumerate(ids) if span_id not in self._span_ids]
                self._span_ids.update(ids)
                for row in batch.take(pa.array(new, pa.int64())).to_pylist():
                    if self._job in (None, row["job"]):
                        self.ledger.add(from_row(row))


def summarise(spans: SpanLog, *, job: str | None = None, progress: Callable[[str], None] | None = None) -> Ledger:
    """Return the ledger of all spans, or of one job's; only one day of spans is in memory at a time.

    Args:
        spans: the spans table.
        job: whose spans; None: those of all jobs.
        progress: called with each day before it is read.
    """
    ledger = Ledger()
    for day in reversed(spans.days()):
        if progress:
            progress(day)
        for span in spans.spans_of(day):
            if job in (None, span.job):
                ledger.add(span)
    return ledger
