"""Loads a warehouse's rows into the lake: read, conform, mask, and committed by spans as the live lane's are."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.history.demo_warehouse import make_demo_warehouse
from pipelines.history.rows import RowTexts, decoded_rows, message_starts, whole_messages
from pipelines.history.warehouse import open_duckdb
from pipelines.live.poll import DecodedPoll, Poll
from pipelines.live.writer import SpanWriter
from pipelines.simulator.anchors import load_or_create
from pipelines.steps import Steps
from vitalake import clock
from vitalake.errors import SettingsError
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
    query = (resources.files(__package__) / "queries" / source / "observation.sql").read_text()
    part = PartId(f"{source}.observation", _incarnation(settings.home, source), 0)
    lake = Lake(settings.lake_uri, settings.storage_options)
    lake.open_all()
    stream = StreamSettings(max_future_seconds=0)
    steps = Steps(settings, stream, lake.dataset)
    writer, position = _begin(lake, steps, part, job=job_name(source), stream=stream)
    begun = position
    try:
        with open_duckdb(make_demo_warehouse(settings.home)) as warehouse:
            tables = whole_messages(warehouse.read(query), rows=BATCH_ROWS)
            for table, starts in _behind(tables, position):
                count = len(starts)
                poll = Poll(
                    share=f"{job_name(source)}/{SHARE}",
                    format="sql",
                    values=RowTexts(table, starts),  # type: ignore[arg-type]
                    parts=(part,),
                    part=np.zeros(count, np.int32),
                    offset=np.arange(position, position + count, dtype=np.int64),
                    broker_ms=np.full(count, clock.now_us() // 1000),
                )
                writer.take(steps.mask(steps.conform(DecodedPoll(poll, decoded_rows(table, starts)))))
                writer.cut_if_due()
                position += count
                if progress:
                    progress(position - begun)
        writer.cut()
        writer.flush()
    finally:
        writer.close()
    sweep(Lake(settings.lake_uri, settings.storage_options), job_name(source))
    return position - begun


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


def _behind(tables: Iterator[pa.Table], position: int) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield what lies behind the first ``position`` messages, with where each message begins."""
    for table in tables:
        starts = message_starts(table)
        if position >= len(starts):
            position -= len(starts)
            continue
        first = int(starts[position])
        yield table.slice(first), starts[position:] - first
        position = 0
