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
import pyarrow.compute as pc

from governance.belonging import admit
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.core.takeover import ONE_SHARD
from pipelines.formats.base import WAREHOUSE
from pipelines.history.change_detection import (
    CHANGED,
    NEW,
    SKIPPED,
    Plan,
    Positions,
    loaded_of,
    plan,
    rebased,
)
from pipelines.history.columns import in_namespace, names_of, with_texts
from pipelines.history.digests import ENTRY, Digests
from pipelines.history.gate import QualityError, QualityGate, SuiteGate
from pipelines.history.job import Job, load_job
from pipelines.history.known_rows import Before, Known, KnownRows
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
from vitalake.lake.commits.spans import PartId, SpanConflict, Superseded
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.mixing import mix
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.tables.table import refuse_new
from vitalake.lake.unlinkable.own_times import is_ours, known_at, marked
from vitalake.settings import Settings, StreamSettings

_log = logging.getLogger(__name__)

BATCH_ROWS = 20_000
"""Rows of a poll."""

SPAN_ROWS = 100_000
"""Messages of a span."""

ATTEMPTS = 5
"""How often a load goes on from the lake's positions when rules, keys or patients change while it writes. Each erasure
interrupts it once, and takes longer than the load needs to begin again."""

MOST_MOVED = 0.5
"""Share of a source's records that a load may give to other patients. Merged patients and corrections are far below
it; another warehouse that gives the same numbers gives nearly all to others. A single record may always move."""

MILLISECOND_US, CENTURY_US = 1_000, 100 * 366 * 86_400_000_000

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
            refuse_new(declared, Home(settings).lake(dataset).storage)
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
        found, form = _digests(settings, job, lake.dataset, spool)
    rows = _Rows(settings, job, lake, known, part, spool, found, form, _gives_versions(spool), care_admits, progress)
    positions = _known_positions(lake, part)
    _check_namespace(known, form, lake, job, part)
    to_load = _plan(known, found, form, positions, warn=True)
    with known.locked():
        before = _check_owners(known, found, form, to_load, lake, job, part, warn=True)
    # Judged before anything is written: rows that fail, and an empty result, leave the lake as it was.
    if to_load.fate.any() or not spool.messages:
        times = _Times(rows.now_us, rows.now_us, _replacing(to_load, before))
        if rows.gives_versions and times.dated.any() and not _of_now(known, positions).given_us:
            rows.given_us = _given_before(lake)
        gate.judge(lake.dataset, (table for table, _, _ in _chosen(spool, to_load, lake.dataset, times)))
    lake.open_all()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            rows.write()
            break
        except SpanConflict as error:
            if attempt == ATTEMPTS:
                raise SpanConflict(
                    f"{error.what}, {ATTEMPTS} times",
                    where=error.where,
                    remedy="What was decided stays. Run the load again: it goes on from there.",
                ) from None
            _log.info("load goes on from the lake's positions", extra={"where": str(part), "reason": error.what})
    mix(lake.published, f"{job.name}.{ONE_SHARD}.e")
    return rows.count


@dataclass(slots=True)
class _Rows:
    """The rows of one query, and what has become of them.

    Attributes:
        now_us: one time for the whole load, in whole milliseconds: times of each batch, or of each attempt, would
            reveal the order of the query.
        count: how many of its messages were loaded.
        gives_versions: whether the load gives versions, because the query has none.
        given_us: the greatest version by time in the lake, where the digests do not tell it.
    """

    settings: Settings
    job: Job
    lake: Lake
    known: KnownRows
    part: PartId
    spool: Spool
    found: npt.NDArray[np.void]
    form: str
    gives_versions: bool
    care_admits: Callable[[str], bool] | None
    progress: Callable[[int], None] | None
    now_us: int = field(default_factory=lambda: clock.now_us() // MILLISECOND_US * MILLISECOND_US)
    count: int = 0
    given_us: int = 0
    _first: int | None = None

    def write(self) -> None:
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
                not_to_care=job.not_to_care,
                care_admits=self.care_admits,
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
            to_load, times = self._note(positions, writer.epoch, under_way)
            next_of = [positions.new, positions.changed]
            for table, starts, changed in _chosen(self.spool, to_load, lake.dataset, times):
                poll = _poll(job, part, RowTexts(table, starts), changed, next_of, self.now_us)
                writer.take(steps.mask(_outcome(poll, table, starts, steps, lake.dataset)))
                writer.cut_if_due()
                self.count += len(starts)
                if self.progress:
                    self.progress(self.count)
            writer.cut()
            writer.flush()

    def _note(self, positions: Positions, epoch: int, under_way: ExitStack) -> tuple[Plan, _Times]:
        """Plan again, now that no other process can load; write the digests of what will be loaded."""
        known, lake = self.known, self.lake
        with known.locked():
            # One that takes over from now on writes its digests after these.
            if lake.spans.current_epoch(job=self.job.name, shard=ONE_SHARD) != epoch:
                raise Superseded(
                    "Another run of this source has taken over",
                    where=str(self.part),
                    remedy="Leave the work to it. Nothing more was loaded here.",
                )
            to_load = _plan(known, self.found, self.form, positions)
            # Checked again: another load may have written its file since.
            _check_namespace(known, self.form, lake, self.job, self.part)
            before = _check_owners(known, self.found, self.form, to_load, lake, self.job, self.part)
            dated = _replacing(to_load, before)
            told = _of_now(known, positions)
            given_us = told.given_us
            if dated.any() and self.gives_versions:
                # A clock that ran ahead once must not hide what is corrected after it was put right.
                given_us = marked(max(self.now_us, max(known.given_by_all(), self.given_us) + MILLISECOND_US))
            under_way.enter_context(known.loading())
            known.write(replace(told, entries=to_load.entries, form=self.form, given_us=given_us))
        if to_load.missing:
            _log.info("messages have gone from the source", extra={"where": str(self.part), "count": to_load.missing})
        return to_load, _Times(self.now_us, given_us, dated)


@dataclass(frozen=True, slots=True)
class _Times:
    """What rows get that the query gives no version.

    Attributes:
        now_us: since when the rows of ``dated`` are known.
        version_us: their version.
        dated: of each message of the query, whether it gets them: it replaces what was loaded before. Others have
            version 0.
    """

    now_us: int
    version_us: int
    dated: npt.NDArray[np.bool_]


def _gives_versions(spool: Spool) -> bool:
    """Return whether the query has rows without versions."""
    return next((("version" not in table.schema.names) for table, _ in spool.tables()), False)


def _replacing(to_load: Plan, before: Before) -> npt.NDArray[np.bool_]:
    """Return which messages replace others: changed ones, and those of a record that was loaded before otherwise."""
    dated: npt.NDArray[np.bool_] = (to_load.fate == CHANGED) | ((to_load.fate == NEW) & before.loaded)
    return dated


def _of_now(known: KnownRows, positions: Positions) -> Known:
    """Return what the file says; nothing if it is older than the lake, as one of a back-up can be."""
    told = known.read()
    return told if loaded_of(told.entries, positions) is not None else Known()


def _given_before(lake: Lake) -> int:
    """Return the greatest version by time in the lake, for digests that do not tell it: of an earlier release, or none.

    It reads two columns of all rows. The first load that gives such a version writes it down.
    """
    if not lake.storage.holds_table(lake.restricted.name):
        return 0
    greatest, latest = 0, clock.now_us() + CENTURY_US  # a source's own version may be any number
    for day in {file.day for file in lake.restricted.snapshot().files.values()}:
        rows = lake.restricted.scan(days=None if day is None else [day], columns=["source", "version"])
        of_loads = pc.match_substring_regex(rows["source"].cast(pa.string()), rf"\.{lake.dataset.name}\[[01]\]$")
        versions = rows["version"].filter(pc.fill_null(of_loads, False)).fill_null(0).to_numpy()
        versions = versions[is_ours(versions) & (versions < latest)]
        greatest = max(greatest, int(versions.max(initial=0)))
    return greatest


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


def _digests(settings: Settings, job: Job, dataset: Dataset, spool: Spool) -> tuple[npt.NDArray[np.void], str]:
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
        form += f"{BEFORE_NAMESPACE}{job.namespace}" if job.namespace is not None else ""
    return np.concatenate(found), form


def _check_namespace(known: KnownRows, form: str, lake: Lake, job: Job, part: PartId) -> None:
    """Refuse a job that has another namespace than when it loaded its rows: each would be loaded again as another.

    Raises:
        SettingsError: it has, in this incarnation or in another one.
        LakeError: the digests of an incarnation are damaged.
    """
    for name in {known.name, *_incarnations(lake, job, part)}:
        told = KnownRows(known.home, name).read()
        # A load that was killed early can have left entries only.
        if not (_known_positions(lake, _part_of(name)) and told.entries.size and form):
            continue
        if told.form.partition(BEFORE_NAMESPACE)[2] != form.partition(BEFORE_NAMESPACE)[2]:
            raise SettingsError(
                "Job's namespace is another than that of the rows that it has loaded",
                where=known.name.rpartition(".")[0],
                remedy="Write the earlier one, or none if there was none; or load under another source.",
            )


def _check_owners(
    known: KnownRows,
    found: npt.NDArray[np.void],
    form: str,
    to_load: Plan,
    lake: Lake,
    job: Job,
    part: PartId,
    *,
    warn: bool = False,
) -> Before:
    """Refuse records that were loaded before for other patients; return what was loaded before.

    Of a record of another source and one of this, only one would be shown. What this source has loaded before it may
    give to another patient, which is reported if another source has it: a refusal would not bring it back, and two
    sources that have the same records would each wait for the other. But most of its records it does not give to
    others: so does another warehouse that is loaded under its name.

    Raises:
        QualityError: there are some among the messages that are to be loaded, or most are.
        LakeError: the digests of a source are damaged.
    """

    def positions_of(name: str) -> Positions:
        return _known_positions(lake, _part_of(name))

    asked = to_load.fate != SKIPPED
    if known.read().form != form:  # skipped by their keys, whatever they say
        asked[:] = True
    before = known.before(found, asked, positions_of, _incarnations(lake, job, part))
    where = f"{known.name.rpartition('.')[0]}: {{:,}} of {{:,}}{{}}"
    moved, own = int(before.moved.sum()), int(before.own.sum())
    if moved > max(1, MOST_MOVED * own):
        raise QualityError(
            "Rows give most records that this source has loaded to other patients, as another warehouse does",
            where=where.format(moved, own, ""),
            remedy="Nothing of it was published. Load another warehouse under another source, with a namespace if it "
            "numbers for itself. If the records are meant: see docs/how-to/history.md, two sources.",
        )
    refused = before.foreign & (to_load.fate == NEW) & ~before.own
    if count := int(refused.sum()):
        raise QualityError(
            "Rows have numbers that another source has given to records of other patients",
            where=where.format(count, len(found), f"; {', '.join(before.sources)}"),
            remedy="Nothing of it was published. If the numbers are the job's own, give it a namespace, and another "
            "source if it has loaded rows: see docs/how-to/history.md, two sources.",
        )
    if warn and before.foreign.any():
        _log.warning(
            "another source has the numbers of these records for other patients: of each two, only one is shown",
            extra={
                "where": known.name,
                "count": int(before.foreign.sum()),
                "remedy": "See docs/how-to/history.md.",
            },
        )
    return before


def _incarnations(lake: Lake, job: Job, part: PartId) -> list[str]:
    """Return the names of the source's incarnations, earlier ones too, of which the lake has messages."""
    if not lake.storage.holds_table("spans"):
        return []
    begun = lake.spans.begun(job=job.name, dataset=lake.dataset.name)
    # Earlier releases recorded no names; others are topics of other jobs.
    topic_ids = {topic_id for topic_id, topic in begun.topics.items() if topic == part.topic}
    names = [f"{part.topic}.{topic_id}" for topic_id in topic_ids | (begun.claimed - begun.topics.keys())]
    return [name for name in names if _known_positions(lake, _part_of(name))]


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


def _chosen(
    spool: Spool, to_load: Plan, dataset: Dataset, times: _Times
) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Yield the messages that are to be loaded, with where each begins and whether it replaces another."""
    begin = 0
    for table, starts in spool.tables():
        fate, dated = (each[begin : begin + len(starts)] for each in (to_load.fate, times.dated))
        begin += len(starts)
        if not fate.any():
            continue
        sizes = np.diff(np.r_[starts, table.num_rows])
        chosen, changed = fate != SKIPPED, fate[fate != SKIPPED] == CHANGED
        rows = table.filter(pa.array(np.repeat(chosen, sizes))) if not chosen.all() else table
        chosen_sizes = sizes[chosen]
        starts_of_chosen = np.r_[0, np.cumsum(chosen_sizes)[:-1]]
        yield _with_version(rows, dataset, np.repeat(dated[chosen], chosen_sizes), times), starts_of_chosen, changed


def _with_version(rows: pa.Table, dataset: Dataset, dated: npt.NDArray[np.bool_], times: _Times) -> pa.Table:
    """Return rows with a version if the query has none: the time of the load for some, and 0 for others.

    That time is one of our own clock, and is marked as such. It also becomes the time since when such a row is known,
    so that queries as of an earlier time show the version before.
    """
    without_version = "version" not in rows.schema.names
    replacing = dated if without_version else np.zeros(len(dated), np.bool_)
    if without_version:  # in every batch, because all batches are judged as one table
        rows = rows.append_column("version", pa.array(np.where(replacing, marked(times.version_us), 0)))
    # issued_at is a time of a query's observations; in another dataset a column of this name is one like any other.
    for name in ("issued_at", "available_at") if dataset.measures else ("available_at",):
        if name in rows.schema.names:
            given = typed(rows.select([name]), dataset)[name].combine_chunks()
            column = known_at(given, replacing, times.now_us if name == "available_at" else None)
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
