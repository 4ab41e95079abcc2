"""Loads a warehouse's rows into the lake: read, conform, mask, and committed by spans as the live lane's are."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.history.demo_warehouse import make_demo_warehouse
from pipelines.history.rows import RowTexts, decoded_rows, message_starts, record_rows, whole_messages
from pipelines.history.warehouse import Warehouse, open_duckdb
from pipelines.poll import DecodedPoll, Outcome, Poll
from pipelines.simulator.anchors import load_or_create
from pipelines.steps import Steps
from pipelines.writer import SpanWriter
from vitalake import clock
from vitalake.errors import SettingsError
from vitalake.lake.dataset import Dataset
from vitalake.lake.lake import Lake
from vitalake.lake.spans import PartId
from vitalake.lake.sweep import sweep
from vitalake.settings import Settings, StreamSettings

SOURCES = ("mimic-demo",)
SHARE = "0of1"
BATCH_ROWS = 20_000
SPAN_ROWS = 100_000


def job_name(source: str) -> str:
    """Return the name under which the ledger counts a source."""
    return f"history-{source}"


def load_history(settings: Settings, source: str, *, progress: Callable[[int], None] | None = None) -> int:
    """Load what the lake does not have yet; return how many messages (observations, panels) were read anew.

    The position is the number of messages of the query, whose order does not change: run again it goes on where the
    last span ended, and adds nothing when that was the end.

    Args:
        settings: of the home.
        source: one of SOURCES.
        progress: told how many messages were read so far.

    Raises:
        VitaLakeError: nothing of the span under way is committed; what was decided stays, and is added at the next run.
    """
    if source not in SOURCES:
        raise SettingsError("Unknown source", where=source, remedy=f"The sources are: {', '.join(SOURCES)}.")
    incarnation = _incarnation(settings.home, source)
    count = 0
    with open_duckdb(make_demo_warehouse(settings.home)) as warehouse:
        for dataset, query in queries_of(source).items():
            part = PartId(f"{source}.{dataset}", incarnation, 0)
            before = count
            told = (lambda n, before=before: progress(before + n)) if progress else None
            count += _load(settings, warehouse, query, part, dataset=dataset, job=job_name(source), progress=told)
    for dataset in queries_of(source):
        sweep(Lake(settings.lake_uri, settings.storage_options, dataset=dataset), job_name(source))
    return count


def queries_of(source: str) -> dict[str, str]:
    """Return the SELECT of each dataset that a source fills."""
    folder = resources.files(__package__) / "queries" / source
    return {item.name.removesuffix(".sql"): item.read_text() for item in sorted(folder.iterdir(), key=str)}


def _load(
    settings: Settings,
    warehouse: Warehouse,
    query: str,
    part: PartId,
    *,
    dataset: str,
    job: str,
    progress: Callable[[int], None] | None,
) -> int:
    lake = Lake(settings.lake_uri, settings.storage_options, dataset=dataset)
    lake.open_all()
    stream = StreamSettings(max_future_seconds=0)
    steps = Steps(settings, stream, lake.dataset)
    writer, position = _begin(lake, steps, part, job=job, stream=stream)
    begun = position
    try:
        tables = whole_messages(warehouse.read(query), rows=BATCH_ROWS)
        for table, starts in _behind(tables, position):
            count = len(starts)
            poll = Poll(
                share=f"{job}/{SHARE}",
                format="sql",
                values=RowTexts(table, starts),  # type: ignore[arg-type]
                parts=(part,),
                part=np.zeros(count, np.int32),
                offset=np.arange(position, position + count, dtype=np.int64),
                broker_ms=np.full(count, clock.now_us() // 1000),
            )
            writer.take(steps.mask(_outcome(poll, table, starts, steps, lake.dataset)))
            writer.cut_if_due()
            position += count
            if progress:
                progress(position - begun)
        writer.cut()
        writer.flush()
    finally:
        writer.close()
    return position - begun


def _outcome(poll: Poll, table: pa.Table, starts: npt.NDArray[np.int64], steps: Steps, dataset: Dataset) -> Outcome:
    """Return identified rows that hold: observations as the live lane judges them, others by their key."""
    if dataset.name == "observation":
        return steps.conform(DecodedPoll(poll, decoded_rows(table, starts)))
    rows, message, rejects = record_rows(table, dataset)
    return Outcome(
        poll=poll,
        rows=rows,
        message=message,
        row_message=message,
        rejects=rejects,
        tombstones=[],
        fingerprints=np.zeros((0, 2), np.uint64),
        effective_us=np.zeros(len(message), np.int64),
    )


def _incarnation(home: Path, source: str) -> str:
    """Return what stands for a topic's UUID: a home that is re-based anew has other rows."""
    reference = load_or_create(home).reference.isoformat()
    return hashlib.sha256(f"{source}|{reference}".encode()).hexdigest()[:22]


def _begin(lake: Lake, steps: Steps, part: PartId, *, job: str, stream: StreamSettings) -> tuple[SpanWriter, int]:
    """Take the source over, add what was decided and not added, and return a writer where the lake goes on."""
    spans, dataset = lake.spans, lake.dataset.name
    spans.claim(job=job, dataset=dataset, topic_ids=[part.topic_id])
    epoch = spans.begin_epoch(job=job, share=SHARE)
    lake.roll_forward([part], since_us=clock.now_us())
    position = spans.positions(dataset, [part])[part]
    if position is None:
        spans.begin_at(dataset, {part: 0})
    writer = SpanWriter(
        lake,
        job=job,
        share=SHARE,
        epoch=epoch,
        rules=steps.plan.version,
        decoder="sql/1",
        dead_letters=steps.dead_letters,
        span_seconds=stream.span_seconds * 60,
        span_rows=SPAN_ROWS,
        late_seconds=stream.late_seconds,
        positions={part: position or 0},
        watermarks={},
        stop=threading.Event(),
        on_committed=lambda _: None,
        on_paused=lambda _: None,
    )
    return writer, position or 0


def _behind(tables: Iterator[pa.Table], position: int) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64]]]:
    """Yield what lies behind the first ``position`` messages, with where each message begins."""
    for table in tables:
        starts = message_starts(table)
        if position >= len(starts):
            position -= len(starts)
            continue
        first = int(starts[position])
        yield table.slice(first), starts[position:] - first
        position = 0
