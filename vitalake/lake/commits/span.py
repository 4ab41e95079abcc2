"""A span: a stretch of input, the counts of its outcomes, and the files that hold its rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec
import pyarrow as pa

from vitalake.lake.commits.transactions import (
    claim_app,
    epoch_app,
    fence_app,
    job_number,
    last_app,
    position_app,
    topic_app,
)
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.table import StagedFile

SEEN = "seen"
"""Name under which a span lists its look-back files. It is not a table, so they are added nowhere."""


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
        return position_app(dataset, self.topic_id, self.partition)


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


class OnlineShare(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which rows of a source go to the online store too; the default: all.

    Attributes:
        without_codes: LOINC codes whose values do not go there, because devices send them.
        held_out_only: whether only patients go there whom no model is trained on; see ``held_out``.
        nothing: whether none go there.
    """

    without_codes: tuple[str, ...] = ()
    held_out_only: bool = False
    nothing: bool = False


EVERYTHING = OnlineShare()
NOTHING = OnlineShare(nothing=True)


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
        online: which of its rows went to the online store, for who reads them again. Earlier releases did not record
            it: of what they decided everything counts.
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
    online: OnlineShare = EVERYTHING

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
    online: OnlineShare = EVERYTHING


_BODY_DECODER = msgspec.json.Decoder(_Body)


def to_row(span: Span) -> pa.Table:
    """Return the row of a span, as ``from_row`` reads it."""
    body = _Body(span.parts, span.latency, span.files, span.fence, span.associations, span.load_us, span.online)
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
        online=body.online,
    )


def left_by(span: Span) -> dict[str, int]:
    """Return what a decided span leaves besides positions, by application id: its shard's epoch, its topics' load."""
    topic_ids = {part.id.topic_id for part in span.parts} if span.load_us else set()
    loads = {last_app(span.dataset, topic_id): span.load_us for topic_id in sorted(topic_ids)}
    return {epoch_app(span.job, span.shard): span.epoch} | loads


def fence_of(span: Span) -> dict[str, int]:
    """Return the transaction of the fence that a span was decided under, if it was raised by then."""
    return {fence_app(span.dataset): span.fence} if span.fence else {}


def begun_by(span: Span) -> dict[str, int]:
    """Return the transactions by which a stretch of input was begun: its job's claims, and the names of its topics."""
    if span.kind != "stream":
        return {}
    found = {}
    for topic_id, topic in sorted({(part.id.topic_id, part.id.topic) for part in span.parts}):
        found[claim_app(span.dataset, topic_id)] = job_number(span.job)
        found[topic_app(span.dataset, topic_id, topic)] = 1
    return found
