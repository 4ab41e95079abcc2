"""Loads a warehouse's rows into the lake: reads, judges, conforms and masks them, and commits them in spans."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from governance.belonging import admit
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.core.takeover import ONE_SHARD
from pipelines.formats.base import WAREHOUSE
from pipelines.history.change_detection import CHANGED, SKIPPED, Plan, Positions, loaded_of, plan, rebased
from pipelines.history.columns import in_namespace, names_of, with_texts
from pipelines.history.digests import ENTRY, Digests, Entries
from pipelines.history.gate import QualityGate, SuiteGate
from pipelines.history.given_versions import (
    CENTURY_US,
    MILLISECOND_US,
    NONE_GIVEN,
    GivenVersions,
    given_versions,
    greatest_given,
)
from pipelines.history.incarnations import changes_of, incarnation, loaded_incarnations, name_of, positions_of
from pipelines.history.job import Job, load_job
from pipelines.history.known_rows import Before, Known, KnownRows
from pipelines.history.owners import check_namespace, check_owners, with_namespace
from pipelines.history.rows import RowTexts, decoded_rows, record_rows, typed
from pipelines.history.spool import Spool
from pipelines.history.warehouse import Warehouse, open_warehouse
from pipelines.intake.fenced import FencedSteps
from pipelines.intake.steps import Steps
from pipelines.simulator.warehouse_cinc import make_cinc_warehouse
from pipelines.simulator.warehouse_mimic import make_demo_warehouse
from vitalake import clock
from vitalake.errors import InputError
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import OnlineShare, PartId
from vitalake.lake.commits.span_log import SpanConflict, Superseded
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.maintenance.mixing import mix
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.tables.table import refuse_new
from vitalake.settings import Settings, StreamSettings

_log = logging.getLogger(__name__)

BATCH_ROWS = 20_000
"""Rows of a poll."""

SPAN_ROWS = 100_000
"""Messages of a span."""

ATTEMPTS = 5
"""How often a load goes on from the lake's positions when rules, keys or patients change while it writes. Each erasure
interrupts it once, and takes longer than the load needs to begin again."""


def load_history(
    settings: Settings,
    source: str,
    *,
    warehouse: str | None = None,
    data: Path | None = None,
    gate: QualityGate | None = None,
    held_out_only: bool = False,
    accept_moved: bool = False,
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
        held_out_only: whether only patients whom no model is trained on go to the online store too.
        accept_moved: whether most records of the query may go to other patients than before.
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
        text = opened.one_text(job.incarnation) if job.incarnation else ""
        for dataset, query in job.queries.items():
            lake = Home(settings).lake(dataset)
            report = (lambda n, before=count: progress(before + n)) if progress else None
            refuse_new(lake.dataset, lake.storage)
            with _of(f"{job.source}.{dataset}"):
                spooled = _spooled(settings, job, lake.dataset, opened, query)
            with spooled as spool:
                count += _Load(settings, job, lake, text, spool, gate, held_out_only, accept_moved, report).run()
    sweep(Home(settings).lake(), job.name)
    return count


@contextmanager
def _of(topic: str) -> Iterator[None]:
    """Name job and dataset in an error of a query's columns."""
    try:
        yield
    except InputError as error:
        raise InputError(error.what, where=f"{topic}: {error.where}", remedy=error.remedy) from None


def _embedded(job: Job, home: Path, data: Path | None) -> str:
    """Return the address of the job's warehouse; make the warehouse first if the job has a maker."""
    if job.maker == "mimic-demo":
        return f"duckdb:{make_demo_warehouse(home)}"
    if job.maker == "cinc-2012":
        return f"duckdb:{make_cinc_warehouse(home, data)}"
    return job.warehouse


def _spooled(settings: Settings, job: Job, dataset: Dataset, warehouse: Warehouse, query: str) -> Spool:
    """Return the rows of a query, read to their end."""
    batches = warehouse.read(query, known=names_of(dataset))
    rows = (with_texts(batch, dataset) for batch in batches)
    if job.namespace is not None:
        rows = (in_namespace(batch, dataset, job.namespace) for batch in rows)
    return Spool(rows, folder=settings.home, rows=BATCH_ROWS, panels=dataset.measures)


@dataclass(slots=True)
class _Load:
    """The load of one dataset.

    Attributes:
        settings: of the home.
        job: of the source.
        lake: of the dataset.
        text: what the job's query for the incarnation returns.
        spool: the rows of the query.
        gate: judges the rows that are to be loaded.
        held_out_only: whether only patients whom no model is trained on go to the online store.
        accept_moved: whether most records of the query may go to other patients than before.
        progress: called with the number of messages loaded so far.
        part: the partition of the messages that are loaded as new.
        known: their digests.
        found: the entries of all messages of the query.
        form: a digest of the query's columns, with the job's namespace.
        now_us: one time for the whole load, in whole milliseconds: times of each batch, or of each attempt, would
            reveal the order of the query.
        count: how many messages were loaded.
        given_us: the greatest version by time in the lake, where the digests do not tell it.
    """

    settings: Settings
    job: Job
    lake: Lake
    text: str
    spool: Spool
    gate: QualityGate
    held_out_only: bool
    accept_moved: bool
    progress: Callable[[int], None] | None
    part: PartId = field(init=False)
    known: KnownRows = field(init=False)
    found: Entries = field(init=False)
    form: str = field(init=False)
    now_us: int = field(default_factory=lambda: clock.now_us() // MILLISECOND_US * MILLISECOND_US)
    count: int = 0
    given_us: int = 0
    _first: int | None = None

    def __post_init__(self) -> None:
        """Find what the query returns, and which incarnation of the source it is of."""
        lake = self.lake
        self.part = incarnation(lake, self.job, self.text)
        last_load_us = loaded_incarnations(lake, self.job).get(self.part, 0)
        self.known = KnownRows(self.settings.home, name_of(self.part), last_load_us=last_load_us)
        with _of(self.part.topic):
            self.found, self.form = _digests(self.settings, self.job, lake.dataset, self.spool)

    def run(self) -> int:
        """Load what the lake does not have; return how many messages that were."""
        known, positions = self.known, positions_of(self.lake, self.part)
        to_load = _plan(known, self.found, self.form, positions, warn=True)
        with known.locked():
            before = self._check(to_load, warn=True)
        told = _of_now(known, positions)
        unknown = bool(positions) and not len(told.entries)  # its rows are taken by their place
        # Judged before anything is written: rows that fail, and an empty result, leave the lake as it was.
        if to_load.fate.any() or not self.spool.messages:
            versions = self._versions(to_load, before, self.now_us)
            unknown |= bool(versions.of.any() or (before.perhaps_given & (to_load.fate != SKIPPED)).any())
            self.gate.judge(self.lake.dataset, (table for table, _, _ in self._chosen(to_load, versions)))
        if unknown and not told.given_us:
            self.given_us = greatest_given(self.lake)
        self.lake.open_all()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._write()
                break
            except SpanConflict as error:
                if attempt == ATTEMPTS:
                    raise SpanConflict(
                        f"{error.what}, {ATTEMPTS} times",
                        where=error.where,
                        remedy="What was decided stays. Run the load again: it goes on from there.",
                    ) from None
                extra = {"where": str(self.part), "reason": error.what}
                _log.info("load goes on from the lake's positions", extra=extra)
        mix(self.lake.published, f"{self.job.name}.{ONE_SHARD}.e")
        return self.count

    def _write(self) -> None:
        """Take over the source, and load from the lake's positions on what is to be loaded.

        Raises:
            SpanConflict: rules, keys or patients have changed meanwhile: write again.
            Superseded: another run of this source has taken over.
        """
        lake, part, job = self.lake, self.part, self.job
        stream = StreamSettings(max_future_seconds=0, unset_clock_days=())
        with ExitStack() as under_way, ExitStack() as opened:
            steps = FencedSteps(
                self.settings,
                stream,
                lake,
                online=OnlineShare(tuple(sorted(job.not_to_care)), held_out_only=self.held_out_only),
                purpose="history",
            )
            opened.callback(steps.close)
            steps.ingested_us = self.now_us
            writer = steps.take_over(
                job=job.name,
                parts=[part, changes_of(part)],
                decoder=f"{WAREHOUSE}/1",
                span_seconds=stream.span_seconds * 60,
                span_rows=SPAN_ROWS,
                late_seconds=stream.late_seconds,
            )
            opened.callback(writer.close)
            positions = Positions(writer.positions[part], writer.positions[changes_of(part)])
            self._first = positions.new + positions.changed if self._first is None else self._first
            self.count = positions.new + positions.changed - self._first
            to_load, versions, writer.load_us = self._note(positions, writer.epoch, under_way)
            next_of = [positions.new, positions.changed]
            for table, starts, changed in self._chosen(to_load, versions):
                poll = _poll(job, part, RowTexts(table, starts), changed, next_of, self.now_us)
                writer.take(steps.mask(_outcome(poll, table, starts, steps, lake.dataset)))
                writer.cut_if_due()
                self.count += len(starts)
                if self.progress:
                    self.progress(self.count)
            writer.cut()
            writer.flush()

    def _note(self, positions: Positions, epoch: int, under_way: ExitStack) -> tuple[Plan, GivenVersions, int]:
        """Plan again, now that no other process can load; write the digests of what will be loaded.

        Returns:
            The plan, the versions that the load gives, and its number for its spans and its digests.
        """
        known, lake = self.known, self.lake
        with known.locked():
            # One that takes over from now on writes its digests after these. One that took over before, and has ended,
            # can have loaded another incarnation.
            current = lake.spans.current_epoch(job=self.job.name, shard=ONE_SHARD)
            if current != epoch or incarnation(lake, self.job, self.text) != self.part:
                raise Superseded(
                    "Another run of this source has taken over",
                    where=str(self.part),
                    remedy="Nothing more was loaded here. Run this load again after that one.",
                )
            to_load = _plan(known, self.found, self.form, positions)
            # Checked again: another load may have written its file since.
            before = self._check(to_load)
            told = _of_now(known, positions)
            given_us = max(told.given_us, self.given_us)
            # A clock that ran ahead once must not hide what is corrected after it was put right.
            first_us = max(self.now_us, max(known.given_by_all(), given_us) + MILLISECOND_US)
            versions = self._versions(to_load, before, first_us)
            to_be_loaded = to_load.fate != SKIPPED
            entries, given = to_load.entries.copy(), versions.of[to_be_loaded]
            of_now = entries["given"][len(entries) - len(given) :]
            of_now[given > 0] = given[given > 0]
            # Without those that follow a source's own number, which can be greater than any time.
            given_us = max(given_us, int(given[given < first_us + CENTURY_US].max(initial=0)))
            # Not the epoch: a repair of the spans' log can lose the entry of one, which is then begun again.
            loads = [told.load_us, *loaded_incarnations(lake, self.job).values()]
            load_us = max(clock.now_us(), max(loads) + 1)
            under_way.enter_context(known.loading())
            known.write(replace(told, entries=entries, form=self.form, given_us=given_us, load_us=load_us))
        if to_load.missing:
            _log.info("messages have gone from the source", extra={"where": str(self.part), "count": to_load.missing})
        return to_load, versions, load_us

    def _check(self, to_load: Plan, *, warn: bool = False) -> Before:
        check_namespace(self.known, self.form, self.lake, self.job)
        return check_owners(
            self.known, self.found, self.form, to_load, self.lake, self.job, accept_moved=self.accept_moved, warn=warn
        )

    def _versions(self, to_load: Plan, before: Before, first_us: int) -> GivenVersions:
        # Where nothing tells it, a load has given a version only if loads have given any in this dataset; or it was 0,
        # which only a greater number of the source's own is above.
        any_given = max(self.known.given_by_all(), self.given_us) > NONE_GIVEN
        perhaps = before.perhaps_given & (any_given | (self.found["version"] <= 0))
        before = replace(before, given=before.given | perhaps)
        return GivenVersions(self.now_us, given_versions(self.found, to_load, before, first_us=first_us))

    def _chosen(
        self, to_load: Plan, versions: GivenVersions
    ) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
        """Yield the messages that are to be loaded, with where each begins and whether it replaces another."""
        begin = 0
        for table, starts in self.spool.tables():
            fate, given = (each[begin : begin + len(starts)] for each in (to_load.fate, versions.of))
            begin += len(starts)
            if not fate.any():
                continue
            sizes = np.diff(np.r_[starts, table.num_rows])
            chosen, changed = fate != SKIPPED, fate[fate != SKIPPED] == CHANGED
            rows = table.filter(pa.array(np.repeat(chosen, sizes))) if not chosen.all() else table
            chosen_sizes = sizes[chosen]
            starts_of_chosen = np.r_[0, np.cumsum(chosen_sizes)[:-1]]
            rows = versions.put(rows, starts_of_chosen, self.lake.dataset, given[chosen])
            yield rows, starts_of_chosen, changed


def _of_now(known: KnownRows, positions: Positions) -> Known:
    """Return what the file says; nothing if it is older than the lake, as one of a back-up can be."""
    told = known.read()
    return told if loaded_of(told.entries, positions) is not None else Known()


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


def _digests(settings: Settings, job: Job, dataset: Dataset, spool: Spool) -> tuple[Entries, str]:
    """Return the entries of a query's messages, and a digest of its columns with the job's namespace.

    Raises:
        InputError: the dataset does not have a column of the query, or a column cannot be cast to its type.
    """
    digests = Digests(dataset, Home(settings).keys.current("vault").secret)
    found, form = [np.zeros(0, ENTRY)], ""
    for table, starts in spool.tables():
        # Cast to the dataset's types: a column that cannot be cast is refused by name, before anything is written.
        found.append(digests.of(typed(table, dataset), starts))
        form = hashlib.sha256(str([(field.name, str(field.type)) for field in table.schema]).encode()).hexdigest()
        form = with_namespace(form, job)
    return np.concatenate(found), form


def _plan(
    known: KnownRows, found: npt.NDArray[np.void], form: str, positions: Positions, *, warn: bool = False
) -> Plan:
    told = known.read()
    entries, level = told.entries, logging.WARNING if warn else logging.DEBUG
    if loaded_of(entries, positions) is None:
        _log.log(
            level,
            "digests of loaded rows are missing: as many rows as the lake has are skipped from the start of the query",
            extra={
                "where": known.name,
                "count": positions.new,
                "remedy": "If rows were not only added at the end since, change the text that the job's incarnation "
                "returns: everything is read again.",
            },
        )
    elif positions and form not in ("", told.form):
        _log.log(
            level,
            "query gives other columns than before: what is known by its key is taken as loaded, whatever it says now",
            extra={
                "where": known.name,
                "count": len(entries),
                "remedy": "To load all of it again, change the text that the job's incarnation returns; if the query "
                "returns versions, return higher ones, too.",
            },
        )
        entries = rebased(entries, found, positions)
    return plan(found, entries, positions)


def _outcome(poll: Poll, table: pa.Table, starts: npt.NDArray[np.int64], steps: Steps, dataset: Dataset) -> Outcome:
    """Return the valid rows, still identified: observations as the live lane judges them, others by their key."""
    decoded = decoded_rows(table, starts) if dataset.measures else record_rows(table, dataset)
    return steps.conform(DecodedPoll(poll, decoded))
