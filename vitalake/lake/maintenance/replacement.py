"""Replaces all of a dataset's published rows by rows made from its identified ones, in one commit.

While a replacement is prepared, no other maintenance may move the rows of either table, because it must be clear which
files were decided under the older fence. So both tables are locked, by a transaction whose version is odd as long.
Streams go on. Erasures go on too, and make the replacement start again. The staged files are recorded in a journal: a
process that starts the same replacement again resumes it, and takes the right to commit from the process before.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from deltalake.exceptions import DeltaError

from vitalake import clock
from vitalake.errors import LakeError
from vitalake.failpoints import failpoint
from vitalake.grouping import groups, row_count
from vitalake.lake.commits.adding import add_span, in_order, is_added
from vitalake.lake.commits.lake import Lake, published_name, restricted_name
from vitalake.lake.commits.span import Span
from vitalake.lake.commits.transactions import maintenance_app, replacement_app, rows_app
from vitalake.lake.datasets.dataset import SUBJECT
from vitalake.lake.maintenance.compaction import TARGET_ROWS, sort_keys
from vitalake.lake.maintenance.journal import Job, Journal, Work
from vitalake.lake.maintenance.lock import abandon, lock_table, unlock_table
from vitalake.lake.maintenance.rewrite import (
    commit_rewrite,
    is_locked,
    read_file,
    unavailable,
)
from vitalake.lake.maintenance.vacuum import kept_files, span_id_of
from vitalake.lake.tables.sorting import joined, no_order, sort_by
from vitalake.lake.tables.staging import Counted, stage_all
from vitalake.lake.tables.table import StagedFile, Table

ATTEMPTS = 3
"""An erasure makes a replacement start again; one that is interrupted this often should wait for a quieter hour."""

PIECE_ROWS = 1_000_000
"""Rows between two entries of the journal. A killed replacement repeats at most twice as many: one piece is written
while the next one is converted."""

GATHERED_PATIENTS = 200_000
"""Patients, counted once a batch, whose rows are converted together. Their opened values are in memory, some 30 MB a
column."""


@dataclass(frozen=True, slots=True)
class Converted:
    """Identified rows, converted to published ones, and the counts of those that are left out.

    Attributes:
        rows: the rows to be published.
        filtered: rows that a rule leaves out.
        forgotten: rows of patients whose key is destroyed.
        unfit: column → published rows in which the column is null because it may not hold the sent value.
    """

    rows: pa.Table
    filtered: int
    forgotten: int
    unfit: Mapping[str, int] = field(default_factory=dict)


Convert = Callable[[pa.Table], Converted]
"""Converts identified rows, as the lake keeps them, to published rows."""


class Overtaken(LakeError):
    """An erasure, a new rule or another process came first: the prepared replacement is not committed."""


@dataclass(slots=True)
class TableReplaced:
    """What a replacement did.

    Attributes:
        dataset: the dataset whose rows were replaced.
        rows_before: published rows before.
        rows_after: published rows now, in their place.
        rows_restricted: identified rows from which they were made.
        filtered: identified rows that a rule leaves out.
        forgotten: identified rows of patients whose key is destroyed.
        resumed: pieces of work that an earlier, killed run had done.
        unfit: column → published rows in which the column is null because it may not hold the sent value.
    """

    dataset: str
    rows_before: int = 0
    rows_after: int = 0
    rows_restricted: int = 0
    filtered: int = 0
    forgotten: int = 0
    resumed: int = 0
    unfit: dict[str, int] = field(default_factory=dict)


def replace_table(
    lake: Lake, *, kind: str, rules: str, make: Callable[[], Convert], counted: Counted | None = None
) -> TableReplaced:
    """Publish all rows that were decided so far again; safe beside streams, erasures and itself, resumed when killed.

    First the dataset's fence is raised: lanes go on with today's rules and keys, and what they decide from then on is
    left as it is. Then all spans that were decided before are added, and their rows are replaced in one commit.

    Args:
        lake: of the dataset; nothing else may use the object during the call.
        kind: kind of the job, for its journal.
        rules: version of the rules and keys; a killed job is resumed only under the same version.
        make: makes the converter with today's rules and keys; called once the fence is raised.
        counted: called with the number of rows made since its last call.

    Call ``refuse_missing`` first: rows that have no identified ones would be gone.

    Raises:
        LakeError: identified rows are missing that the lake had (nothing is changed), or another process has taken the
            job over.
        ServiceUnavailable: storage, vault or key service failed; start it again.
    """
    for _ in range(ATTEMPTS):
        run = _Run(lake, kind, rules, counted)
        try:
            return run.go(make)
        except Overtaken:
            if not run.may_go_on():
                raise
        except LakeError:
            run.let_go()  # trying again cannot help, so unlock the tables
            raise
        except (OSError, DeltaError) as error:
            if run.is_overtaken():  # an erasure has deleted files that were being read
                continue
            raise unavailable(lake.published, error) from None
    raise LakeError(
        "Erasures or other maintenance always came first",
        where=lake.published.name,
        remedy="Try again in a quieter hour.",
    )


@dataclass(slots=True)
class _Totals:
    """The totals of all spans that were decided under an older fence.

    Attributes:
        published: rows that they added to the published table.
        restricted: rows that they added to the restricted table.
        ends: end position of each partition that has published something, by application id.
    """

    published: int = 0
    restricted: int = 0
    ends: dict[str, int] = field(default_factory=dict)


class _Run:
    """One attempt at a replacement."""

    def __init__(self, lake: Lake, kind: str, rules: str, counted: Counted | None) -> None:
        self._lake, self._kind, self._rules, self._counted = lake, kind, rules, counted
        self._dataset = lake.dataset.name
        self._target, self._source = lake.published, lake.restricted
        self._journal = Journal(lake.storage, self._dataset)
        self._number = self._source_number = 0
        self._begun: Job | None = None
        self.done = TableReplaced(self._dataset)

    def go(self, make: Callable[[], Convert]) -> TableReplaced:
        """Run the attempt; see ``replace_table``."""
        self._finish_committed()
        self._source_number = lock_table(self._source)
        self._number = lock_table(self._target)
        failpoint("swap-held")
        job = self._job()
        failpoint("swap-fenced")
        self._begun = job
        convert = make()
        totals = self._settle(job)
        self._check_source(job, totals)
        old = self._older(self._target, job)
        self.done.rows_before = sum(file.rows for file in old)
        new = self._work(job, convert)
        failpoint("swap-ready")
        self._commit(job, old, new, totals)
        failpoint("swap-committed")
        self._finish_committed()
        for table in (self._target, self._source):
            table.prepare(republished=True)
        return self.done

    def may_go_on(self) -> bool:
        """Return whether the job may start again, because no other process has taken it over."""
        return self._number_of(self._target) == self._number

    def let_go(self) -> None:
        """Give the job up and unlock its tables, unless another process has taken it over."""
        if self._number and self.may_go_on():
            abandon(self._journal, [self._target, self._source])

    def is_overtaken(self) -> bool:
        """Return whether the fence was raised again since the job raised it."""
        return self._begun is not None and not self._is_current(self._begun)

    # -- beginning -----------------------------------------------------------------------------------------------

    def _finish_committed(self) -> None:
        """Unlock the source and delete the journal if a replacement was committed but killed before it could do so."""
        job, lock = self._journal.job(), self._number_of(self._source)  # read first: others can begin from then on
        self._target.refresh()
        if not is_locked(self._target):
            if job == self._journal.job():
                self._journal.end()
            unlock_table(self._source, number=lock)

    @staticmethod
    def _number_of(table: Table) -> int:
        table.refresh()
        return table.transaction(replacement_app(table.name)) or 0

    def _job(self) -> Job:
        """Return the earlier job if it can be resumed; else raise the fence and begin a new one."""
        job = self._journal.job()
        if job and self._is_committed(job):  # since its lock was looked for: to resume it would add its files again
            self._journal.end()
            job = None
        if job and (job.kind, job.rules) == (self._kind, self._rules) and self._is_current(job):
            self._journal.renew(job)
            return job
        if job and not self._is_current(job):
            self._throw_away(job)
        fence = self._lake.spans.raise_fence(self._dataset)
        job = Job(uuid.uuid4().hex[:16], self._kind, self._dataset, fence, self._rules, clock.now_us())
        self._journal.begin(job)
        return job

    def _is_committed(self, job: Job) -> bool:
        return any(path.rpartition("/")[2].startswith(f"swap.{job.id}.") for path in kept_files(self._target))

    def _throw_away(self, job: Job) -> None:
        """Delete the files of a job that cannot be resumed: they may hold rows of a patient who was erased since."""
        kept = kept_files(self._target)
        for path in self._target.storage.files(suffix=""):
            if path.rpartition("/")[2].startswith(f"swap.{job.id}.") and path not in kept:
                self._target.storage.delete(path)

    def _is_current(self, job: Job) -> bool:
        return self._lake.spans.fence(self._dataset) == job.fence

    def _check_current(self, job: Job) -> None:
        if not self._is_current(job):
            raise Overtaken(
                "An erasure or another republish came first", where=self._target.name, remedy="It starts again."
            )

    # -- what was decided before ---------------------------------------------------------------------------------

    def _settle(self, job: Job) -> _Totals:
        """Add what was decided under the older fence, as far as its files exist; return the totals of those spans."""
        totals = _Totals()
        for span in in_order(span for span in self._spans() if span.fence < job.fence and self._lacking(span)):
            for table in self._lacking(span):
                add_span(span, table)
        for span in self._spans():
            if span.fence >= job.fence:
                continue
            published = span.files_of(self._target.name)
            totals.published += sum(file.rows for file in published)
            totals.restricted += sum(file.rows for file in span.files_of(self._source.name))
            for app, end in span.transactions.items() if published else ():
                totals.ends[app] = max(totals.ends.get(app, 0), end)
        return totals

    def _check_source(self, job: Job, totals: _Totals) -> None:
        """Refuse to go on if the restricted table lacks rows: the rows published from them would be lost too."""
        there = sum(file.rows for file in self._older(self._source, job))
        expected = totals.restricted + (self._source.transaction(rows_app(self._source.name)) or 0)
        if there != expected:
            raise LakeError(
                f"The restricted zone holds {there:,} rows of {expected:,}",
                where=self._source.name,
                remedy="Run 'vitalake lake repair', or restore it from a back-up; published rows were not changed.",
            )

    def _spans(self) -> Iterator[Span]:
        return (span for span in self._lake.spans.all_spans() if span.dataset == self._dataset)

    def _lacking(self, span: Span) -> list[Table]:
        """Return the tables that lack files of a span; not the published one if it was lost and is made again."""
        tables = [self._source, self._target, self._lake.quarantine]
        lacking = [table for table in tables if span.files_of(table.name) and not is_added(span, table)]
        files = span.files_of(self._target.name)
        there = self._target not in lacking or all(self._target.storage.exists(file.path) for file in files)
        return [table for table in lacking if table is not self._target or there]

    def _older(self, table: Table, job: Job) -> list[StagedFile]:
        """Return the files of a table that were decided before the fence was raised, or made from such files."""
        table.refresh()
        day = str(datetime.fromtimestamp(job.begun_us / 1e6, UTC).date() - timedelta(days=1))
        newer = {span.span_id for span in self._lake.spans.all_spans(since=day) if span.fence >= job.fence}
        files = table.snapshot().files.values()
        return sorted((file for file in files if span_id_of(file.path) not in newer), key=lambda file: file.path)

    # -- the work ------------------------------------------------------------------------------------------------

    def _work(self, job: Job, convert: Convert) -> list[StagedFile]:
        new: list[StagedFile] = []
        for work in self._pieces(job, convert):
            new += work.files
            self.done.rows_restricted += work.rows
            self.done.filtered += work.filtered
            self.done.forgotten += work.forgotten
            for name, count in work.unfit.items():
                self.done.unfit[name] = self.done.unfit.get(name, 0) + count
            self.done.rows_after += sum(file.rows for file in work.files)
        return new

    def _pieces(self, job: Job, convert: Convert) -> Iterator[Work]:
        """Yield each finished piece of the work; one piece is written while the next one is converted."""
        self._check_mine()
        writing: Future[Work] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="swap") as writer:
            for files in _pieces_of(self._older(self._source, job)):
                finished = self._journal.done([file.path for file in files])
                if finished is not None:
                    self.done.resumed += 1
                    yield finished
                    continue
                work, parts = self._converted(convert, files)
                if writing is not None:
                    yield self._recorded(job, writing.result())
                writing = writer.submit(self._written, job, work, parts)
            if writing is not None:
                yield self._recorded(job, writing.result())

    def _recorded(self, job: Job, work: Work) -> Work:
        """Record a piece while no file is written, because this refreshes the table."""
        self._check_mine()
        self._journal.record(work)
        self._journal.renew(job)
        failpoint("swap-chunk")
        return work

    def _check_mine(self) -> None:
        numbers = self._number_of(self._source), self._number_of(self._target)
        if numbers != (self._source_number, self._number):
            raise Overtaken(
                "Another process has taken this job over",
                where=self._target.name,
                remedy="Let it end; see its output.",
            )

    def _converted(self, convert: Convert, files: Sequence[StagedFile]) -> tuple[Work, list[pa.Table]]:
        """Convert the rows of some files; return the piece of work without its new files, and the sorted rows."""
        rows, filtered, forgotten = 0, 0, 0
        unfit: Counter[str] = Counter()
        keys = sort_keys(self._target.dataset)

        def converted() -> Iterator[pa.Table]:
            nonlocal rows, filtered, forgotten
            for batch in _gathered(batch for file in files for batch in read_file(self._source, file)):
                done = convert(batch)
                rows += batch.num_rows
                filtered += done.filtered
                forgotten += done.forgotten
                unfit.update(done.unfit)
                if self._counted:
                    self._counted(done.rows.num_rows)
                yield done.rows

        dataset = self._target.dataset
        full = map(joined, groups(filter(row_count, converted()), (row_count, TARGET_ROWS)))
        parts = [sort_by(part, keys, last=no_order(part, dataset)) for part in full]
        return Work([file.path for file in files], [], rows, filtered, forgotten, dict(unfit)), parts

    def _written(self, job: Job, work: Work, parts: list[pa.Table]) -> Work:
        stage_all(self._target, parts, stem=f"swap.{job.id}.{uuid.uuid4().hex}", into=work.files)
        return work

    # -- the commit ----------------------------------------------------------------------------------------------

    def _commit(self, job: Job, old: Sequence[StagedFile], new: Sequence[StagedFile], totals: _Totals) -> None:
        target = self._target
        target.refresh()
        number = (target.transaction(maintenance_app(target.name)) or 0) + 1
        rows = sum(file.rows for file in new) - totals.published
        self._check_mine()
        self._check_current(job)

        def transactions() -> dict[str, int]:
            ends = {app: end for app, end in totals.ends.items() if (target.transaction(app) or -1) < end}
            mine = {
                maintenance_app(target.name): number,
                replacement_app(target.name): self._number + 1,
                rows_app(target.name): rows,
            }
            return mine | ends

        def is_good() -> bool:
            return (
                (target.transaction(replacement_app(target.name)) or 0) == self._number
                and (target.transaction(maintenance_app(target.name)) or 0) + 1 == number
                and {file.path for file in old} <= target.snapshot().files.keys()
            )

        committed = commit_rewrite(
            target, old, new, stem=f"swap.{job.id}", since=target.delta.version(), transactions=transactions,
            is_good=is_good, data_change=True,
        )  # fmt: skip
        if not committed:
            raise Overtaken("Other maintenance came first", where=target.name, remedy="It starts again.")


def _pieces_of(files: Sequence[StagedFile]) -> Iterator[list[StagedFile]]:
    """Yield files, day by day, in groups that make a piece of work each."""
    ordered = sorted(files, key=lambda file: (str(file.day), file.path))
    yield from groups(ordered, (lambda file: file.rows, PIECE_ROWS))


def _gathered(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join batches while they are of few patients, so that repeated values are opened once."""
    for together in groups(batches, (row_count, PIECE_ROWS), (_patients, GATHERED_PATIENTS)):
        yield joined(together)


def _patients(batch: pa.Table) -> int:
    return sum(len(chunk.dictionary) for chunk in batch[SUBJECT.name].chunks)


def refuse_missing(lake: Lake) -> None:
    """Return if the lake was given the identified rows of all rows that were ever published; call it before any change.

    Asked of the spans alone: a table that has lost entries of its log, or spans that are still to be added to it, says
    less than was published. No lane writes such rows (``Lake.open_all``); early development releases did.

    Raises:
        LakeError: with the number of rows that could not be made again.
    """
    target, source = published_name(lake.dataset.name), restricted_name(lake.dataset.name)
    spans = (span for span in lake.spans.all_spans() if span.dataset == lake.dataset.name)
    missing = sum(file.rows for span in spans if not span.files_of(source) for file in span.files_of(target))
    if missing:
        raise LakeError(
            f"{missing:,} published rows have no identified rows in the lake",
            where=source,
            remedy="They were published before the dataset was kept in the restricted zone, and cannot be made again. "
            "Load the dataset from its source into a new lake. No row was published.",
        )
