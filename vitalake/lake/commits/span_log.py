"""The spans table: decides spans, knows positions, and lists what was decided."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal

from deltalake.exceptions import CommitFailedError, DeltaError

from vitalake import clock
from vitalake.errors import InputError, LakeError, ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.lake.commits.format import begin_format, check_readable, check_writable
from vitalake.lake.commits.span import PartId, Span, from_row, left_by, to_row
from vitalake.lake.commits.transactions import REPAIRED, claim_app, epoch_app, fence_app, job_number, kind_of, topic_app
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.log import explained
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import COMMIT_ATTEMPTS, Table

RAISE_SECONDS = 60.0
"""How long it is tried to raise a fence; beside eight workers that decide without a pause it took up to ten seconds."""


class SpanConflict(LakeError):
    """Another reader has moved a partition: this span is discarded, and the reader starts from the lake's positions."""

    transient = True


class Superseded(LakeError):
    """A successor has taken this shard over: this process must end, and must not be restarted."""


class Unbalanced(LakeError):
    """A span's counts contradict each other: the span is not decided."""


@dataclass(slots=True)
class Begun:
    """What the log's transactions say of the partitions that were begun.

    Attributes:
        positions: (UUID of the topic, partition) → where it is read on.
        topics: UUID → name of a topic; empty: it cannot be known any more, see ``SpanLog.begin_at``.
        claimed: UUIDs of the topics that the job has ever read; earlier releases did not record names.
        loads: UUID of a topic → ``load_us`` of the last span of it that was decided; 0, or an epoch, if an earlier
            release decided it.
    """

    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    loads: dict[str, int] = field(default_factory=dict)


class SpanLog:
    """The spans table: decides spans, knows positions, and lists what was decided."""

    def __init__(self, lake: Storage) -> None:
        self.lake = lake
        check_readable(lake)
        begin_format(lake)
        self.table = Table(load_dataset("spans"), lake, zone="")

    # -- who may write -------------------------------------------------------------------------------------------

    def claim(self, *, job: str, dataset: str, topic_ids: Iterable[str]) -> None:
        """Reserve topics for this job and this dataset.

        Raises:
            InputError: another job already reads one of them into the dataset.
        """
        mine = job_number(job)
        claims = {claim_app(dataset, topic_id): mine for topic_id in sorted(topic_ids)}

        def ready() -> Literal["commit", "done"]:
            held = {app: self.table.transaction(app) for app in claims}
            if any(version not in (None, mine) for version in held.values()):
                raise InputError(
                    "Another job reads this topic into this dataset",
                    where=f"job {job}, dataset {dataset}",
                    # A claim has only a number of the job's name: the other name cannot be shown.
                    remedy="If this job was renamed, give it its earlier name again. Otherwise use the other job, or "
                    "another dataset or topic.",
                )
            return "done" if all(version == mine for version in held.values()) else "commit"

        self.table.commit_when(ready, transactions=claims)

    def begin_epoch(self, *, job: str, shard: str) -> int:
        """Begin a new epoch of the shard and return it; a writer with an older epoch can decide nothing from now on.

        Raises:
            LakeError: the lake has another format than this release writes.
            ServiceUnavailable: the lake cannot be reached.
        """
        check_writable(self.lake)
        app = epoch_app(job, shard)
        for _ in range(COMMIT_ATTEMPTS):
            self.table.refresh()
            # A repair can have lost the first epochs of a shard: each entry that it set aside had one at most.
            epoch = max(self.table.transaction(app) or 0, self.table.transaction(REPAIRED) or 0) + 1
            try:
                self.table.commit(transactions={app: epoch})
            except CommitFailedError:
                continue
            except (OSError, DeltaError) as error:
                raise explained(self.table.storage, error, "Lake cannot be read") from None
            failpoint("start-epoch")
            return epoch
        raise ServiceUnavailable(
            "Another writer always takes this shard over first",
            where=f"{job}/{shard}",
            remedy="Stop the other workers.",
        )

    def current_epoch(self, *, job: str, shard: str) -> int:
        """Return the shard's newest epoch; 0: it never began one."""
        self.table.refresh()
        return self.table.transaction(epoch_app(job, shard)) or 0

    def fence(self, dataset: str) -> int:
        """Return the height of the dataset's fence; 0: it was never raised."""
        self.table.refresh()
        return self.table.transaction(fence_app(dataset)) or 0

    def raise_fence(self, dataset: str) -> int:
        """Raise a dataset's fence and return its new height; see ``raise_fences``."""
        return self.raise_fences([dataset])[dataset]

    def raise_fences(self, datasets: Iterable[str]) -> dict[str, int]:
        """Raise fences in one commit; return their new heights: the time in microseconds, but higher than before.

        A repair can lose the entry of a raised fence. A height that counted how often it was raised would be reached
        twice, and what was made under the lost one would pass as newer than a republish that came after it.

        A lane makes rows with the keys, rules and associations that it read when it opened. When these change so that
        rows made before must not be decided any more (a patient is erased, a rule is stricter), the fence is raised:
        spans under way are discarded, and lanes open again and read their input again.

        A span compares the height and then commits its shard's epoch, so the raise commits all epochs again: of the two
        commits the later one conflicts, and is planned again. Delta would let it follow a commit of other transactions.

        Raises:
            ServiceUnavailable: the lake cannot be reached, or other commits always come first.
        """
        names, until = sorted(datasets), time.monotonic() + RAISE_SECONDS
        while time.monotonic() < until:
            self.table.refresh()  # once: what is compared is of the version that is committed on
            now, fences = clock.now_us(), {name: self.table.transaction(fence_app(name)) or 0 for name in names}
            heights = {dataset: max(height + 1, now) for dataset, height in fences.items()}
            raised = {fence_app(dataset): height for dataset, height in heights.items()}
            epochs = {app: epoch for app, epoch in self.table.all_transactions().items() if kind_of(app)[0] == "epoch"}
            try:
                self.table.commit(transactions=epochs | raised, retries=0)  # no epoch is begun in between
            except CommitFailedError:
                continue
            except (OSError, DeltaError) as error:
                raise explained(self.table.storage, error, "Lake cannot be read") from None
            failpoint("fence-raised")
            return heights
        raise ServiceUnavailable(
            "Others always commit first",
            where=", ".join(map(fence_app, names)),
            remedy="Try again in a quieter minute.",
        )

    # -- positions and decisions ---------------------------------------------------------------------------------

    def positions(self, dataset: str, parts: Iterable[PartId]) -> dict[PartId, int | None]:
        """Return the position from which each partition is read next; None: it was never read."""
        try:
            self.table.refresh()
        except (OSError, DeltaError) as error:
            raise explained(self.table.storage, error, "Lake cannot be read") from None
        return {part: self.table.transaction(part.app_id(dataset)) for part in parts}

    def begun(self, *, job: str, dataset: str) -> Begun:
        """Return every partition that was ever begun, also if nothing of it was read."""
        mine, found = job_number(job), Begun()
        self.table.refresh()
        for app, version in self.table.all_transactions().items():
            kind, named = kind_of(app)
            if named.get("dataset") != dataset:
                continue
            if kind == "topic":
                found.topics[named["topic_id"]] = named["topic"]
            elif kind == "claim" and version == mine:
                found.claimed.add(named["topic_id"])
            elif kind == "last load":
                found.loads[named["topic_id"]] = version
            elif kind == "position":
                found.positions[named["topic_id"], int(named["partition"])] = version
        return found

    def begin_at(
        self, dataset: str, positions: Mapping[PartId, int], *, topics: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Record the first positions of partitions that were never read, and the names of their topics.

        A partition has no span until its first message; by the name it is known later that its topic was read.

        Args:
            dataset: that the topics are read into.
            positions: the first position of each partition.
            topics: UUIDs and names of other topics that are read already, which earlier releases did not record; empty
                for one whose name cannot be known any more.

        Raises:
            SpanConflict: another reader has begun one of them; nothing is changed.
        """
        starts = {part.app_id(dataset): position for part, position in positions.items()}
        begun = {**topics, **{part.topic_id: part.topic for part in positions}}
        names = {topic_app(dataset, topic_id, topic): 1 for topic_id, topic in sorted(begun.items())}

        def ready() -> Literal["commit", "done"]:
            if any(self.table.transaction(app) is not None for app in starts):
                raise SpanConflict(
                    "Another reader has begun this partition",
                    where=dataset,
                    remedy="It is read from that reader's position.",
                )
            new = starts or any(self.table.transaction(app) is None for app in names)
            return "commit" if new else "done"

        self.table.commit_when(ready, transactions=starts | names)

    def read_partitions(self, dataset: str) -> tuple[set[PartId], set[PartId]]:
        """Return all partitions that have a span, and those of them that are closed.

        Reads every day: the last span of a quiet partition can be older than spans of the topic's other partitions.
        """
        read: set[PartId] = set()
        closed: set[PartId] = set()
        for day in self.days():
            for span in self.spans_of(day):
                if span.dataset == dataset:
                    parts = {part.id for part in span.parts}
                    read |= parts
                    closed |= parts if span.kind == "closed" else set()
        return read, closed

    def decide(self, span: Span) -> None:
        """Record the span: from then on it is final, and its files only have to be added.

        Raises:
            Unbalanced: its counts contradict each other; nothing is committed.
            SpanConflict: a partition is not at the start of the span, or the dataset's fence was raised since.
            Superseded: the shard has a newer epoch.
            OSError: storage refuses the file of the span's row.
        """
        for part in span.parts:
            if not part.counts.balanced:
                raise Unbalanced(
                    "Ledger does not balance",
                    where=f"{part.id}@{part.first}-{part.end}",
                    remedy="Nothing of this span was committed. This is a bug: keep the logs and report it.",
                )
        row = self.table.stage(to_row(span), stem=span.span_id)
        epoch = epoch_app(span.job, span.shard)

        def ready() -> Literal["commit", "done"]:
            if self._is_decided(span):
                return "done"
            if (self.table.transaction(epoch) or 0) != span.epoch:
                raise Superseded(
                    "A successor has taken this shard over",
                    where=f"{span.job}/{span.shard}",
                    # The successor of a load reads the datasets of its own job file, and maybe not this one.
                    remedy="Nothing of this span was committed. A worker's successor goes on with its work. If this is "
                    "a load of a warehouse, another load of its source has begun: run this one again after that one.",
                )
            if (self.table.transaction(fence_app(span.dataset)) or 0) != span.fence:
                raise SpanConflict(
                    "Rules, keys or patients have changed since the span was begun",
                    where=f"{span.job}/{span.shard}",
                    remedy="The span is discarded and read again with today's rules and keys.",
                )
            for part in span.parts:
                if self.table.transaction(part.id.app_id(span.dataset)) != part.start:
                    raise SpanConflict(
                        "Another reader has moved this partition",
                        where=str(part.id),
                        remedy="The span is discarded and read again from the lake's position.",
                    )
            return "commit"

        failpoint("before-decide")
        self.table.commit_when(ready, add=row, transactions=span.transactions | left_by(span))

    def _is_decided(self, span: Span) -> bool:
        """Return whether this span is in the table; reads it only if all partitions are at the end of the span."""
        if any(self.table.transaction(app) != end for app, end in span.transactions.items()):
            return False
        day = _day(span.decided_us)
        return span.span_id in self.table.scan(days=[day], columns=["span_id"])["span_id"].to_pylist()

    # -- what was decided ----------------------------------------------------------------------------------------

    def days(self) -> list[str]:
        """Return the days on which spans were decided, newest first."""
        self.table.refresh()
        return sorted({str(file.day) for file in self.table.snapshot().files.values()}, reverse=True)

    def spans_of(self, day: str) -> list[Span]:
        """Return the spans decided on a day, oldest first."""
        return sorted(
            (from_row(row) for row in self.table.scan(days=[day]).to_pylist()), key=lambda span: span.decided_us
        )

    def all_spans(self, *, since: str = "") -> Iterator[Span]:
        """Yield every span decided on an ISO date or later, oldest day first; only one day is in memory at a time."""
        for day in reversed(self.days()):
            if day >= since:
                yield from self.spans_of(day)

    def recent(self, parts: Sequence[PartId], *, dataset: str, since_us: int) -> list[Span]:
        """Return the spans of these partitions since ``since_us``, oldest first, and at least the last span of each."""
        without_span = {p for p, position in self.positions(dataset, parts).items() if position is not None}
        found: list[Span] = []
        for day in self.days():
            if not without_span and day < _day(since_us):
                break
            mine = [s for s in self.spans_of(day) if s.dataset == dataset and any(p.id in parts for p in s.parts)]
            without_span -= {part.id for span in mine for part in span.parts}
            found = mine + found
        return found


def _day(us: int) -> str:
    return str((datetime.fromtimestamp(0, tz=UTC) + timedelta(microseconds=us)).date())
