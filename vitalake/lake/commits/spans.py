"""Spans: stretches of input, each decided by one commit that moves the positions and lists the files to add."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal

import msgspec
import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError

from vitalake import clock
from vitalake.errors import InputError, LakeError, ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.lake.commits.format import begin_format, check_readable, check_writable
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.log import explained
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import StagedFile, Table

SEEN = "seen"
"""Name under which a span lists its look-back files. It is not a table, so they are added nowhere."""


CUT = "cut"
"""The application whose transaction keeps for how many entries, of those that repairs set aside, fences were raised."""


class SpanConflict(LakeError):
    """Another reader has moved a partition: this span is discarded, and the reader starts from the lake's positions."""

    transient = True


class Superseded(LakeError):
    """A successor has taken this shard over: this process must end, and must not be restarted."""


class Unbalanced(LakeError):
    """A span's counts contradict each other: the span is not decided."""


class Counts(msgspec.Struct):
    """The counts of one partition's messages and rows in one span, by outcome."""

    messages: int = 0
    decoded: int = 0
    undecodable: int = 0
    tombstones: int = 0
    lost_upstream: int = 0
    rows: int = 0
    published: int = 0
    rejected: int = 0
    duplicate: int = 0
    filtered: int = 0
    held: int = 0
    late: int = 0

    @property
    def balanced(self) -> bool:
        """Return whether every message and every row has exactly one outcome."""
        return (
            self.messages == self.decoded + self.undecodable + self.tombstones + self.lost_upstream
            and self.rows == self.published + self.rejected + self.duplicate + self.filtered + self.held
            and min(msgspec.structs.astuple(self)) >= 0
        )

    def add(self, other: Counts) -> None:
        """Add other counts to these."""
        for name in COUNT_NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


COUNT_NAMES: tuple[str, ...] = Counts.__struct_fields__
"""The names of the counts, in the order of the ledger's equations."""


class PartId(msgspec.Struct, frozen=True, order=True):
    """A partition of a topic; a topic that was deleted and created again has another ``topic_id``."""

    topic: str
    topic_id: str
    partition: int

    def __str__(self) -> str:
        """Return ``topic[partition]``."""
        return f"{self.topic}[{self.partition}]"

    def app_id(self, dataset: str) -> str:
        """Return the application id of the Delta transaction that keeps this partition's position."""
        return f"{dataset}/{self.topic_id}/{self.partition}"


MOST_LOCAL = 500
"""Local codes counted by name in one stretch: a sender that gives every row a new code must not fill the ledger."""

OTHERS = ""
"""The name under which local codes beyond ``MOST_LOCAL`` are counted."""


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _bounded(counts: dict[str, int]) -> dict[str, int]:
    named = [name for name in counts if name != OTHERS]
    if len(named) <= MOST_LOCAL:
        return counts
    kept = {name: counts[name] for name in named[:MOST_LOCAL]}
    return kept | {OTHERS: sum(counts.values()) - sum(kept.values())}


class Part(msgspec.Struct, omit_defaults=True):
    """One partition's stretch of a span: ``start`` (None: nothing was read before) up to ``end``, exclusive.

    ``unfit`` counts, by column, the published rows whose text the column may not hold: it is null where they are
    published, and kept in the restricted zone. ``mapped`` and ``unmapped`` count the rows that came with a code of a
    local system, by that code (and the code it was mapped to): only of systems and forms that the home declares.
    """

    id: PartId
    start: int | None
    first: int
    end: int
    counts: Counts
    max_effective_us: int | None = None
    lost_unknown: bool = False
    unfit: dict[str, int] = {}
    mapped: dict[str, int] = {}
    unmapped: dict[str, int] = {}

    def count_unfit(self, counts: Mapping[str, int]) -> None:
        """Add counts of unfit values by column."""
        self.unfit = _added(self.unfit, counts)

    def count_local(self, mapped: Mapping[str, int], unmapped: Mapping[str, int]) -> None:
        """Add counts of local codes; codes beyond ``MOST_LOCAL`` are counted together, without a name."""
        self.mapped = _bounded(_added(self.mapped, mapped))
        self.unmapped = _bounded(_added(self.unmapped, unmapped))


class Span(msgspec.Struct):
    """A stretch of input: what was read, the counts of its outcomes, and the files that hold its rows.

    Attributes:
        kind: a stretch of input (stream), a gap in or before it (gap), or its end (closed). Or rows that were read
            before: rejected or held messages that were read again (replay), and rows whose patient was found or
            corrected (attribution).
        fence: the dataset's fence when the rows were made; see ``SpanLog.raise_fence``.
        associations: version of the table of device associations that attributed the rows; 0: none was needed.
        load_us: when the load of a warehouse that it belongs to began to write, greater than that of every earlier
            one of the source; 0: it belongs to none.
    """

    span_id: str
    kind: Literal["stream", "gap", "closed", "replay", "attribution"]
    job: str
    dataset: str
    shard: str
    epoch: int
    decided_us: int
    rules: str
    decoder: str
    parts: list[Part]
    latency: dict[int, int]
    files: list[StagedFile]
    fence: int = 0
    associations: int = 0
    load_us: int = 0

    @property
    def transactions(self) -> dict[str, int]:
        """Return the position that each partition reaches, by application id."""
        return {part.id.app_id(self.dataset): part.end for part in self.parts}

    def files_of(self, table: str) -> list[StagedFile]:
        """Return the files that were staged for one table."""
        return [file for file in self.files if file.table == table]


class _Body(msgspec.Struct):
    parts: list[Part]
    latency: dict[int, int]
    files: list[StagedFile]
    fence: int = 0
    associations: int = 0
    load_us: int = 0


_BODY_DECODER = msgspec.json.Decoder(_Body)


def to_row(span: Span) -> pa.Table:
    """Return the row of a span, as ``from_row`` reads it."""
    body = _Body(span.parts, span.latency, span.files, span.fence, span.associations, span.load_us)
    values = {
        "span_id": span.span_id,
        "kind": span.kind,
        "job": span.job,
        "dataset": span.dataset,
        "share": span.shard,
        "epoch": span.epoch,
        "decided_at": datetime.fromtimestamp(span.decided_us / 1e6, tz=UTC),
        "rules": span.rules,
        "decoder": span.decoder,
        "body": msgspec.json.encode(body).decode(),
    }
    return pa.Table.from_pylist([values], schema=load_dataset("spans").schema)


def from_row(row: dict[str, object]) -> Span:
    """Return the span that a row of the spans table holds."""
    body = _BODY_DECODER.decode(str(row["body"]))
    decided = row["decided_at"]
    assert isinstance(decided, datetime)
    plain = {name: row[name] for name in ("span_id", "kind", "job", "dataset", "epoch", "rules", "decoder")}
    return Span(
        shard=str(row["share"]),  # the column keeps the name that it has on disk
        **plain,  # type: ignore[arg-type]
        decided_us=round(decided.timestamp() * 1e6),
        parts=body.parts,
        latency=body.latency,
        files=body.files,
        fence=body.fence,
        associations=body.associations,
        load_us=body.load_us,
    )


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
        mine = _job_number(job)
        claims = {_claim_app(dataset, topic_id): mine for topic_id in sorted(topic_ids)}

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
        app = f"{job}/{shard}/epoch"
        for _ in range(50):
            self.table.refresh()
            # A repair can have lost the first epochs of a shard: each entry that it set aside had one at most.
            epoch = max(self.table.transaction(app) or 0, self.table.transaction(CUT) or 0) + 1
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
        return self.table.transaction(f"{job}/{shard}/epoch") or 0

    def fence(self, dataset: str) -> int:
        """Return the height of the dataset's fence; 0: it was never raised."""
        self.table.refresh()
        return self.table.transaction(fence_app(dataset)) or 0

    def raise_fence(self, dataset: str) -> int:
        """Raise the dataset's fence and return its new height: the time in microseconds, but higher than before.

        A repair can lose the entry of a raised fence. A height that counted how often it was raised would be reached
        twice, and what was made under the lost one would pass as newer than a republish that came after it.

        A lane makes rows with the keys, rules and associations that it read when it opened. When these change so that
        rows made before must not be decided any more (a patient is erased, a rule is stricter), the fence is raised:
        spans under way are discarded, and lanes open again and read their input again.

        Raises:
            ServiceUnavailable: the lake cannot be reached, or other commits always come first.
        """
        app = fence_app(dataset)
        for _ in range(50):
            height = max(self.fence(dataset) + 1, clock.now_us())
            try:
                self.table.commit(transactions={app: height})
            except CommitFailedError:
                continue
            except (OSError, DeltaError) as error:
                raise explained(self.table.storage, error, "Lake cannot be read") from None
            failpoint("fence-raised")
            return height
        raise ServiceUnavailable(
            "Others always raise the fence first", where=app, remedy="Try again in a quieter minute."
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
        mine, claims, topics = _job_number(job), _claim_app(dataset, ""), f"topic/{dataset}/"
        loads, places = _last_app(dataset, ""), f"{dataset}/"
        found = Begun()
        self.table.refresh()
        for app, version in self.table.all_transactions().items():
            if app.startswith(topics):
                topic_id, _, topic = app.removeprefix(topics).rpartition("/")
                found.topics[topic_id] = topic
            elif app.startswith(claims) and version == mine:
                found.claimed.add(app.removeprefix(claims))
            elif app.startswith(loads):
                found.loads[app.removeprefix(loads)] = version
            elif app.startswith(places):
                topic_id, _, partition = app.removeprefix(places).rpartition("/")
                if partition.isdecimal():
                    found.positions[topic_id, int(partition)] = version
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
        names = {_name_app(dataset, topic_id, topic): 1 for topic_id, topic in sorted(begun.items())}

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
        epoch_app = _epoch_app(span)

        def ready() -> Literal["commit", "done"]:
            if self._is_decided(span):
                return "done"
            if (self.table.transaction(epoch_app) or 0) != span.epoch:
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


def fence_app(dataset: str) -> str:
    """Return the application whose transaction keeps the height of a dataset's fence."""
    return f"fence/{dataset}"


def is_epoch(app: str) -> bool:
    """Return whether a transaction of the spans table keeps a shard's epoch."""
    return app.endswith("/epoch") and not app.startswith("topic/")


def _epoch_app(span: Span) -> str:
    return f"{span.job}/{span.shard}/epoch"


def left_by(span: Span) -> dict[str, int]:
    """Return what a decided span leaves besides positions, by application id: its shard's epoch, its topics' load."""
    topic_ids = {part.id.topic_id for part in span.parts} if span.load_us else set()
    loads = {_last_app(span.dataset, topic_id): span.load_us for topic_id in sorted(topic_ids)}
    return {_epoch_app(span): span.epoch} | loads


def fence_of(span: Span) -> dict[str, int]:
    """Return the transaction of the fence that a span was decided under, if it was raised by then."""
    return {fence_app(span.dataset): span.fence} if span.fence else {}


def begun_by(span: Span) -> dict[str, int]:
    """Return the transactions by which a stretch of input was begun: its job's claims, and the names of its topics."""
    if span.kind != "stream":
        return {}
    found = {}
    for topic_id, topic in sorted({(part.id.topic_id, part.id.topic) for part in span.parts}):
        found[_claim_app(span.dataset, topic_id)] = _job_number(span.job)
        found[_name_app(span.dataset, topic_id, topic)] = 1
    return found


def _claim_app(dataset: str, topic_id: str) -> str:
    return f"claim/{dataset}/{topic_id}"


def _name_app(dataset: str, topic_id: str, topic: str) -> str:
    return f"topic/{dataset}/{topic_id}/{topic}"


def _last_app(dataset: str, topic_id: str) -> str:
    """Return the application whose transaction keeps the load of a topic's last span."""
    return f"last/{dataset}/{topic_id}"


def _job_number(job: str) -> int:
    """Return the number by which a claim names a job: the versions of transactions are int64."""
    return int.from_bytes(hashlib.blake2b(job.encode(), digest_size=7).digest())


def _day(us: int) -> str:
    return str((datetime.fromtimestamp(0, tz=UTC) + timedelta(microseconds=us)).date())


def add_span(span: Span, table: Table) -> bool:
    """Add a decided span's files to a table; return False if there was nothing left to do.

    Raises:
        LakeError: some of the span's partitions are added and some are not: something else has changed the table.
    """
    files = span.files_of(table.name)
    if not files or is_added(span, table):
        return False

    def ready() -> Literal["commit", "done"]:
        if is_added(span, table):
            return "done"
        if any((table.transaction(app) or -1) >= end for app, end in span.transactions.items()):
            raise LakeError(
                "A span is added for some partitions and not for others",
                where=f"{table.name}, span {span.span_id}",
                remedy="Run 'vitalake lake verify', and restore the table from a back-up made before that change.",
            )
        return "commit"

    return table.commit_when(ready, add=files, transactions=span.transactions)


def is_added(span: Span, table: Table) -> bool:
    """Return whether the table, as last refreshed, holds the span. Positions only grow: a stale object may say no."""
    return all((table.transaction(app) or -1) >= end for app, end in span.transactions.items())
