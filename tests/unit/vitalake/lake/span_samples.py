"""Made-up spans, and their files, for tests of the lake."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.seen import write_seen
from vitalake.lake.commits.span import Counts, Part, PartId, Span
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.digests import digest_in
from vitalake.lake.tables.table import Table

JOB = "vitals"
SHARD = "0of1"
DAY = datetime(2026, 3, 1, tzinfo=UTC)


def part(partition: int = 0, topic: str = "vitals", topic_id: str = "uuid-1") -> PartId:
    """Return a partition."""
    return PartId(topic, topic_id, partition)


def open_lake(folder: Path) -> Lake:
    """Return the lake of a folder, opened afresh."""
    return Lake(str(folder), {})


def observations(first: int, end: int, *, days: int = 1, source: str = "vitals[0]") -> pa.Table:
    """Return one row an offset, spread over some days."""
    schema = load_dataset("observation").schema
    rows = [
        {
            "observation_id": uuid.uuid5(uuid.NAMESPACE_OID, f"{source}@{position}").bytes,
            "version": 0,
            "patient_id": f"pseudonym-{position % 5}",
            "code": ("8867-4", "59408-5")[position % 2],
            "value": float(position),
            "unit": "/min",
            "status": "final",
            "effective_at": DAY + timedelta(days=position % days, seconds=86_399 - position % 80_000),
            "source": source,
            "source_position": position,
        }
        for position in range(first, end)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def dead_letters(first: int, end: int, *, source: str = "vitals[0]") -> pa.Table:
    """Return one dead letter an offset."""
    rows = [
        {
            "source": source,
            "topic_id": "uuid-1",
            "position": position,
            "rejected_at": DAY,
            "reason": "not-json",
            "path": "",
            "decoder": "fhir/1",
            "payload_bytes": 3,
            "key_id": "quarantine/v1",
            "nonce": b"0" * 12,
            "payload": b"sealed",
            "expires_at": DAY + timedelta(days=36_500),
        }
        for position in range(first, end)
    ]
    return pa.Table.from_pylist(rows, schema=load_dataset("dead_letter").schema)


def empty_span(
    start: int, end: int, *, at: PartId | None = None, epoch: int = 1, shard: str = SHARD, counts: Counts | None = None
) -> Span:
    """Return a span of one partition without files; by default of an input where all was a tombstone."""
    size = end - start
    return Span(
        span_id=f"{JOB}.{shard}.e{epoch}.{uuid.uuid4().hex}",
        kind="stream",
        job=JOB,
        dataset="observation",
        shard=shard,
        epoch=epoch,
        decided_us=clock.now_us(),
        rules="rules-1",
        decoder="fhir/1",
        parts=[Part(at or part(), start, start, end, counts or Counts(messages=size, tombstones=size))],
        latency={80: size},
        files=[],
    )


def staged_span(
    lake: Lake,
    start: int,
    end: int,
    *,
    bad: int = 1,
    days: int = 1,
    at: PartId | None = None,
    epoch: int = 1,
    shard: str = SHARD,
) -> Span:
    """Return a span whose files are staged: one row a message, the last ``bad`` messages undecodable."""
    where, good = at or part(), end - bad
    counts = Counts(
        messages=end - start, decoded=good - start, undecodable=bad, rows=good - start, published=good - start
    )
    span = empty_span(start, end, at=where, epoch=epoch, shard=shard, counts=counts)
    span.files = lake.published.stage(observations(start, good, days=days, source=str(where)), stem=span.span_id)
    span.files += lake.quarantine.stage(dead_letters(good, end, source=str(where)), stem=span.span_id)
    span.files.append(write_seen(lake.storage, span.span_id, np.zeros((good - start, 2), np.uint64)))
    return span


def begin(lake: Lake, *, parts: int = 1, shard: str = SHARD) -> int:
    """Begin partitions at 0 and a shard; return its epoch."""
    lake.spans.begin_at("observation", {part(i): 0 for i in range(parts)})
    return lake.spans.begin_epoch(job=JOB, shard=shard)


def write_spans(lake: Lake, count: int, *, size: int = 4, days: int = 1, start: int = 0, epoch: int = 1) -> list[Span]:
    """Decide and add spans one after the other; return them."""
    spans = []
    for first in range(start, start + count * size, size):
        span = staged_span(lake, first, first + size, days=days, epoch=epoch)
        lake.spans.decide(span)
        lake.add(span)
        spans.append(span)
    return spans


def positions(lake: Lake) -> list[int]:
    """Return the positions of the published rows, in order, as a fresh reader sees them."""
    lake.published.refresh()
    return sorted(lake.published.scan(columns=["source_position"])["source_position"].to_pylist())


def of_before(table: Table) -> list[str]:
    """Give a table's files names without digests, as those of before have them; return their paths."""
    table.refresh()
    old = list(table.snapshot().files.values())  # of one that a test has deleted there is nothing to rename
    new = []
    for file in old:
        if not table.storage.exists(file.path):
            continue
        path = file.path.replace(f".s{digest_in(file.path)}", "")
        Path(table.storage.root, path).write_bytes(Path(table.storage.root, file.path).read_bytes())
        new.append(msgspec.structs.replace(file, path=path))
    table.commit(add=new, remove=old, transactions={}, data_change=False)
    table.refresh()
    return [file.path for file in new]
