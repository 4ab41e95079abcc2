"""Loads a warehouse's rows into the lake: reads, judges, conforms and masks them, and commits them in spans."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from governance.belonging import admit
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.core.takeover import ONE_SHARD
from pipelines.formats.base import WAREHOUSE
from pipelines.history.change_detection import (
    CHANGED,
    CLAIM,
    ENTRY,
    NEW,
    SKIPPED,
    Digests,
    KnownRows,
    Plan,
    Positions,
    plan,
    rebased,
)
from pipelines.history.columns import in_namespace, names_of, with_texts
from pipelines.history.gate import QualityError, QualityGate, SuiteGate
from pipelines.history.job import Job, load_job
from pipelines.history.rows import RowTexts, decoded_rows, record_rows, typed
from pipelines.history.spool import Spool
from pipelines.history.warehouse import Warehouse, open_warehouse
from pipelines.intake.fenced import FencedSteps
from pipelines.intake.steps import Steps
from pipelines.simulator.warehouse_cinc import make_cinc_warehouse
from pipelines.simulator.warehouse_mimic import make_demo_warehouse
from vitalake import clock
from vitalake.errors import InputError, SettingsError
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.spans import PartId
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.mixing import mix
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.unlinkable.own_times import known_at, marked
from vitalake.settings import Settings, StreamSettings

_log = logging.getLogger(__name__)

BATCH_ROWS = 20_000
"""Rows of a poll."""

SPAN_ROWS = 100_000
"""Messages of a span."""

BEFORE_NAMESPACE = "|"
"""Stands between the digest of a query's columns and the job's namespace."""


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
    """Load what the lake does not have yet; return how many messages (observations, panels, rows) were loaded.

    A message is recognised by its contents, wherever it stands in the query's result: another run loads those that are
    new and those that were changed. See change_detection.py, also for a source whose digests are missing.

    Args:
        settings: of the home.
        source: a job that ships with the project, or the path of a job file.
        warehouse: its address, instead of the job's.
        data: folder of the source's files, if the embedded warehouse is made of them.
        gate: judges a dataset before it is published; default: the suite made from its declaration.
        care_admits: whether a patient, by pseudonym, goes to the online store too; None: every patient does.
        progress: called with the number of messages loaded so far.

    Raises:
        QualityError: a dataset does not pass the gate; nothing of it is published.
        VitaLakeError: the load has ended before its end. Spans that were decided stay, and the next run adds them;
            nothing else was committed.
    """
    admit(settings)
    job = load_job(source)
    gate = gate or SuiteGate(settings.home / "quality", source=job.source, max_rejected=job.max_rejected)
    address = warehouse or _embedded(job, settings.home, data)
    count = 0
    with open_warehouse(address, home=settings.home, silence_seconds=job.silence_seconds) as opened:
        incarnation = _incarnation(job, opened)
        for dataset, query in job.queries.items():
            part = PartId(f"{job.source}.{dataset}", incarnation, 0)
            report = (lambda n, before=count: progress(before + n)) if progress else None
            declared = load_dataset(dataset)
            batches = opened.read(query, known=names_of(declared))
            rows = (with_texts(batch, declared) for batch in batches)
            if job.namespace is not None:
                rows = (in_namespace(batch, declared, job.namespace) for batch in rows)
            with _of(part):
                spooled = Spool(rows, folder=settings.home, rows=BATCH_ROWS, panels=declared.measures)
            with spooled as spool:
                count += _load(
                    settings, job, spool, part, dataset=dataset, gate=gate, care_admits=care_admits, progress=report
                )
    sweep(Home(settings).lake(), job.name)
    return count


@contextmanager
def _of(part: PartId) -> Iterator[None]:
    """Name job and dataset in an error of a query's columns."""
    try:
        yield
    except InputError as error:
        raise InputError(error.what, where=f"{part.topic}: {error.where}", remedy=error.remedy) from None


def _embedded(job: Job, home: Path, data: Path | None) -> str:
    """Return the address of the job's warehouse; make the warehouse first if the job has a maker."""
    if job.maker == "mimic-demo":
        return f"duckdb:{make_demo_warehouse(home)}"
    if job.maker == "cinc-2012":
        return f"duckdb:{make_cinc_warehouse(home, data)}"
    return job.warehouse


def _incarnation(job: Job, warehouse: Warehouse) -> str:
    """Return what takes the place of a topic's UUID: when the job's incarnation changes, the source is a new one."""
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
    lake = Home(settings).lake(dataset)
    known = KnownRows(settings.home, f"{part.topic}.{part.topic_id}")
    with _of(part):
        found, claims, form = _digests(settings, job, lake.dataset, spool)
    positions = _known_positions(lake, part)
    _check_namespace(known, form, positions)
    to_load = _plan(known, found, form, positions, warn=True)
    # One time for the whole load, in whole milliseconds: times of each batch would reveal the order of the query.
    now_us = clock.now_us() // 1000 * 1000
    with known.locked():
        _check_claims(known, claims, to_load, lake, warn=True)
    # Judged before anything is written: rows that fail, and an empty result, leave the lake as it was.
    if to_load.fate.any() or not spool.messages:
        gate.judge(lake.dataset, (table for table, _, _ in _chosen(spool, to_load, lake.dataset, now_us)))
    lake.open_all()
    stream = StreamSettings(max_future_seconds=0, unset_clock_days=())
    steps = FencedSteps(settings, stream, lake, not_to_care=job.not_to_care, care_admits=care_admits, purpose="history")
    steps.ingested_us = now_us
    writer = steps.take_over(
        job=job.name,
        parts=[part, changes_of(part)],
        decoder=f"{WAREHOUSE}/1",
        span_seconds=stream.span_seconds * 60,
        span_rows=SPAN_ROWS,
        late_seconds=stream.late_seconds,
    )
    positions = Positions(writer.positions[part], writer.positions[changes_of(part)])
    to_load = _plan(known, found, form, positions)  # planned again, now that no other process can load
    if to_load.missing:
        _log.info("messages have gone from the source", extra={"where": str(part), "count": to_load.missing})
    count, next_of = 0, [positions.new, positions.changed]
    under_way = ExitStack()
    try:
        with known.locked():  # checked again: another load may have written its file since
            _check_namespace(known, form, positions)
            _check_claims(known, claims, to_load, lake)
            under_way.enter_context(known.loading())
            known.write(to_load.entries, form, claims, add=bool(positions))
        for table, starts, changed in _chosen(spool, to_load, lake.dataset, now_us):
            poll = _poll(job, part, RowTexts(table, starts), changed, next_of, now_us)
            writer.take(steps.mask(_outcome(poll, table, starts, steps, lake.dataset)))
            writer.cut_if_due()
            count += len(starts)
            if progress:
                progress(count)
        writer.cut()
        writer.flush()
    finally:
        writer.close()
        steps.close()
        under_way.close()
    mix(lake.published, f"{job.name}.{ONE_SHARD}.e")
    return count


def _poll(
    job: Job, part: PartId, texts: RowTexts, changed: npt.NDArray[np.bool_], next_of: list[int], now_us: int
) -> Poll:
    """Return messages as a poll, and advance ``next_of``; changed messages have a partition of their own."""
    parts, number = [part], np.zeros(len(changed), np.int32)
    offset = next_of[0] + np.cumsum(~changed) - 1
    if changed.any():
        parts = [part, changes_of(part)] if not changed.all() else [changes_of(part)]
        number = (changed & (not changed.all())).astype(np.int32)
        offset = np.where(changed, next_of[1] + np.cumsum(changed) - 1, offset)
    next_of[0] += int((~changed).sum())
    next_of[1] += int(changed.sum())
    return Poll(
        shard=f"{job.name}/{ONE_SHARD}",
        format=WAREHOUSE,
        values=texts,  # type: ignore[arg-type]
        parts=tuple(parts),
        part=number,
        offset=offset.astype(np.int64),
        broker_ms=np.full(len(changed), now_us // 1000),
    )


def changes_of(part: PartId) -> PartId:
    """Return the partition of a source's messages that were changed since they were loaded."""
    return PartId(part.topic, part.topic_id, part.partition + 1)


def _digests(
    settings: Settings, job: Job, dataset: Dataset, spool: Spool
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], str]:
    """Return the entries and the claims of a query's messages, and a digest of its columns with the job's namespace.

    Raises:
        InputError: the dataset does not have a column of the query, or a column cannot be cast to its type.
    """
    digests = Digests(dataset, Home(settings).keys.current("vault").secret)
    found, claims, form = [np.zeros(0, ENTRY)], [np.zeros(0, CLAIM)], ""
    for table, starts in spool.tables():
        # Cast to the dataset's types: a column that cannot be cast is refused by name, before anything is written.
        entries, claimed = digests.of(typed(table, dataset), starts)
        found.append(entries)
        claims.append(claimed)
        form = hashlib.sha256(str([(field.name, str(field.type)) for field in table.schema]).encode()).hexdigest()
        form += f"{BEFORE_NAMESPACE}{job.namespace}" if job.namespace is not None else ""
    return np.concatenate(found), np.concatenate(claims), form


def _check_namespace(known: KnownRows, form: str, positions: Positions) -> None:
    """Refuse a job that has another namespace than when it loaded its rows: each would be loaded again as another.

    Raises:
        SettingsError: it has.
    """
    entries, before = known.read()
    if not (positions and entries.size and form):  # a load that was killed early can have left entries without rows
        return
    if before.partition(BEFORE_NAMESPACE)[2] != form.partition(BEFORE_NAMESPACE)[2]:
        raise SettingsError(
            "Job's namespace is another than that of the rows that it has loaded",
            where=known.name.rpartition(".")[0],
            remedy="Write the earlier one, or none if there was none; or load under another source.",
        )


def _check_claims(
    known: KnownRows,
    claims: npt.NDArray[np.void],
    to_load: Plan,
    lake: Lake,
    *,
    warn: bool = False,
) -> None:
    """Refuse records that another source has loaded for another patient: of the two, only one would be shown.

    What this source has loaded before is only reported: a refusal would not bring it back, and two sources that have
    the same records would each wait for the other when a record is given to another patient.

    Raises:
        QualityError: there are some among the messages that are to be loaded.
    """

    def has_rows(name: str) -> bool:
        return bool(_known_positions(lake, _part_of(name)))

    foreign, sources = known.of_another(claims, has_rows)
    if not foreign.any():
        return
    # A changed row was loaded before by this source, also if a release without claims did it.
    refused = foreign & (to_load.fate == NEW) & ~known.loaded_before(claims, has_rows)
    if count := int(refused.sum()):
        raise QualityError(
            "Rows have numbers that another source has given to records of other patients",
            where=f"{known.name.rpartition('.')[0]}: {count:,} of {len(claims):,}; {', '.join(sources)}",
            remedy="Nothing of it was published. If the numbers are the job's own, give it a namespace, and another "
            "source if it has loaded rows: see docs/how-to/history.md, two sources.",
        )
    if warn:
        _log.warning(
            "another source has the numbers of these records for other patients: of each two, only one is shown",
            extra={"where": known.name, "count": int(foreign.sum()), "remedy": "See docs/how-to/history.md."},
        )


def _plan(
    known: KnownRows, found: npt.NDArray[np.void], form: str, positions: Positions, *, warn: bool = False
) -> Plan:
    entries, form_of_before = known.read()
    if positions and entries.size and form not in ("", form_of_before):
        _log.log(
            logging.WARNING if warn else logging.DEBUG,
            "query gives other columns than before: what is known by its key is taken as loaded, whatever it says now",
            extra={
                "where": known.name,
                "count": len(entries),
                "remedy": "To load all of it again, change the text that the job's incarnation returns.",
            },
        )
        entries = rebased(entries, found, positions)
    return plan(found, entries, positions)


def _chosen(
    spool: Spool, to_load: Plan, dataset: Dataset, now_us: int
) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Yield the messages that are to be loaded, with where each begins and whether it replaces another."""
    begin = 0
    for table, starts in spool.tables():
        fate = to_load.fate[begin : begin + len(starts)]
        begin += len(starts)
        if not fate.any():
            continue
        sizes = np.diff(np.r_[starts, table.num_rows])
        chosen, changed = fate != SKIPPED, fate[fate != SKIPPED] == CHANGED
        rows = table.filter(pa.array(np.repeat(chosen, sizes))) if not chosen.all() else table
        chosen_sizes = sizes[chosen]
        starts_of_chosen = np.r_[0, np.cumsum(chosen_sizes)[:-1]]
        yield _with_version(rows, dataset, np.repeat(changed, chosen_sizes), now_us), starts_of_chosen, changed


def _with_version(rows: pa.Table, dataset: Dataset, changed: npt.NDArray[np.bool_], now_us: int) -> pa.Table:
    """Return rows with a version if the query has none: the time of the load for changed rows, and 0 for others.

    That time is one of our own clock, and is marked as such. It also becomes the time since when a changed row is
    known, so that queries as of an earlier time show the version before.
    """
    without_version = "version" not in rows.schema.names
    replacing = changed if without_version else np.zeros(len(changed), np.bool_)
    if without_version:  # in every batch, because all batches are judged as one table
        rows = rows.append_column("version", pa.array(np.where(replacing, marked(now_us), 0)))
    # issued_at is a time of a query's observations; in another dataset a column of this name is one like any other.
    for name in ("issued_at", "available_at") if dataset.measures else ("available_at",):
        if name in rows.schema.names:
            times = typed(rows.select([name]), dataset)[name].combine_chunks()
            column = known_at(times, replacing, now_us if name == "available_at" else None)
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def _part_of(name: str) -> PartId:
    """Return the partition that a file of digests is named after."""
    topic, _, topic_id = name.rpartition(".")
    return PartId(topic, topic_id, 0)


def _known_positions(lake: Lake, part: PartId) -> Positions:
    """Return how much of a source the lake has; this creates no tables."""
    if not lake.storage.holds_table("spans"):
        return Positions(0, 0)
    found = lake.spans.positions(lake.dataset.name, [part, changes_of(part)])
    return Positions(found[part] or 0, found[changes_of(part)] or 0)


def _outcome(poll: Poll, table: pa.Table, starts: npt.NDArray[np.int64], steps: Steps, dataset: Dataset) -> Outcome:
    """Return the valid rows, still identified: observations as the live lane judges them, others by their key."""
    decoded = decoded_rows(table, starts) if dataset.measures else record_rows(table, dataset)
    return steps.conform(DecodedPoll(poll, decoded))
