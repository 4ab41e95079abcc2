"""Loads a warehouse's rows into the lake: read, judge, conform, mask, and committed by spans as the live lane's are."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.history.cinc_warehouse import make_cinc_warehouse
from pipelines.history.demo_warehouse import make_demo_warehouse
from pipelines.history.gate import QualityGate, SuiteGate
from pipelines.history.job import Job, load_job
from pipelines.history.rows import RowTexts, decoded_rows, record_rows
from pipelines.history.spool import Spool
from pipelines.history.warehouse import Warehouse, open_warehouse
from pipelines.poll import DecodedPoll, Outcome, Poll
from pipelines.steps import Steps
from pipelines.writer import SpanWriter
from vitalake import clock
from vitalake.lake.dataset import Dataset
from vitalake.lake.lake import Lake
from vitalake.lake.spans import PartId
from vitalake.lake.sweep import sweep
from vitalake.settings import Settings, StreamSettings

SHARE = "0of1"
BATCH_ROWS = 20_000
SPAN_ROWS = 100_000


def load_history(
    settings: Settings,
    source: str,
    *,
    warehouse: str | None = None,
    data: Path | None = None,
    gate: QualityGate | None = None,
    care_admits: Callable[[str], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Load what the lake does not have yet; return how many messages (observations, panels, rows) were read anew.

    The position is the number of messages of the query, whose order does not change: run again it goes on where the
    last span ended, and adds nothing when that was the end.

    Args:
        settings: of the home.
        source: a job that ships with the project, or the path of a job file.
        warehouse: its address, instead of the job's.
        data: folder of the source's files, where an embedded warehouse is made of them.
        gate: what judges a dataset before it is published; default: the suite of its declaration.
        care_admits: whether a patient, by pseudonym, goes to the care store too; None: everybody does.
        progress: told how many messages were read so far.

    Raises:
        QualityError: a dataset does not pass the gate; nothing of it is published.
        VitaLakeError: nothing of the span under way is committed; what was decided stays, and is added at the next run.
    """
    job = load_job(source)
    gate = gate or SuiteGate(settings.home / "quality", source=job.source, max_rejected=job.max_rejected)
    address = warehouse or _embedded(job, settings.home, data)
    count = 0
    with open_warehouse(address, home=settings.home) as opened:
        incarnation = _incarnation(job, opened)
        for dataset, query in job.queries.items():
            part = PartId(f"{job.source}.{dataset}", incarnation, 0)
            told = (lambda n, before=count: progress(before + n)) if progress else None
            with Spool(opened.read(query), folder=settings.home, rows=BATCH_ROWS) as spool:
                count += _load(
                    settings, job, spool, part, dataset=dataset, gate=gate, care_admits=care_admits, progress=told
                )
    sweep(Lake(settings.lake_uri, settings.storage_options), job.name)
    return count


def _embedded(job: Job, home: Path, data: Path | None) -> str:
    """Return the address of the job's warehouse, made if the job says how."""
    if job.maker == "mimic-demo":
        return f"duckdb:{make_demo_warehouse(home)}"
    if job.maker == "cinc-2012":
        return f"duckdb:{make_cinc_warehouse(home, data)}"
    return job.warehouse


def _incarnation(job: Job, warehouse: Warehouse) -> str:
    """Return what stands for a topic's UUID: a source whose rows are others is another one."""
    text = warehouse.one_text(job.incarnation) if job.incarnation else ""
    return hashlib.sha256(f"{job.source}|{text}".encode()).hexdigest()[:22]


def _load(
    settings: Settings,
    job: Job,
    spool: Spool,
    part: PartId,
    *,
    dataset: str,
    gate: QualityGate,
    care_admits: Callable[[str], bool] | None,
    progress: Callable[[int], None] | None,
) -> int:
    lake = Lake(settings.lake_uri, settings.storage_options, dataset=dataset)
    position = _known_position(lake, part)
    # Judged before anything is made or begun: what fails, an empty result too, leaves the lake as it was.
    if spool.messages > position or not spool.messages:
        gate.judge(lake.dataset, (table for table, _ in spool.tables(behind=position)))
    lake.open_all()
    stream = StreamSettings(max_future_seconds=0)
    fence = lake.spans.fence(dataset)  # before rules and keys are read
    steps = Steps(settings, stream, lake.dataset, not_to_care=job.not_to_care, care_admits=care_admits)
    writer, position = _begin(lake, steps, part, job=job.name, stream=stream, fence=fence)
    begun = position
    try:
        for table, starts in spool.tables(behind=position):
            count = len(starts)
            poll = Poll(
                share=f"{job.name}/{SHARE}",
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
        steps.close()
    return position - begun


def _known_position(lake: Lake, part: PartId) -> int:
    """Return where the lake goes on with a source; looking makes no tables."""
    if not lake.storage.holds_table("spans"):
        return 0
    return lake.spans.positions(lake.dataset.name, [part])[part] or 0


def _outcome(poll: Poll, table: pa.Table, starts: npt.NDArray[np.int64], steps: Steps, dataset: Dataset) -> Outcome:
    """Return identified rows that hold: observations as the live lane judges them, others by their key."""
    decoded = decoded_rows(table, starts) if dataset.name == "observation" else record_rows(table, dataset)
    return steps.conform(DecodedPoll(poll, decoded))


def _begin(
    lake: Lake, steps: Steps, part: PartId, *, job: str, stream: StreamSettings, fence: int
) -> tuple[SpanWriter, int]:
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
        fence=fence,
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
