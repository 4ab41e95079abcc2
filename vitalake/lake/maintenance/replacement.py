"""Swapping all of a dataset's published rows for others made of its identified ones, in one commit.

While a swap is prepared nobody else may move the rows of either table, or nobody could tell any more which files were
decided under the older fence: the table is held, by a transaction that is odd meanwhile. Streams go on, and so do
erasures, which then make the swap start anew. What is staged is written in a journal; whoever begins the same swap
again goes on with it, and takes from the one before the right to commit.
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
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.spans import Span, add_span
from vitalake.lake.datasets.dataset import SUBJECT
from vitalake.lake.maintenance.compaction import TARGET_ROWS, sort_keys
from vitalake.lake.maintenance.journal import Job, Journal, Work
from vitalake.lake.maintenance.lock import abandon, hold_for_maintenance, release
from vitalake.lake.maintenance.rewrite import (
    commit_rewrite,
    is_held,
    maintenance_app,
    read_file,
    replacement_app,
    rows_app,
    unavailable,
)  # fmt: skip
from vitalake.lake.maintenance.vacuum import kept_files, span_id_of
from vitalake.lake.tables.sorting import joined, no_order, sort_by
from vitalake.lake.tables.staging import Counted, stage_all
from vitalake.lake.tables.table import StagedFile, Table

ATTEMPTS = 3
"""An erasure in the middle makes a swap begin anew; who is met by so many should wait."""


PIECE_ROWS = 1_000_000
"""Rows between two entries of the journal; a killed swap does twice as many again at most: one piece is written while
the next one is converted."""

GATHERED_PATIENTS = 200_000
"""Patients, counted once a batch, whose rows are converted together: what is opened of them is in memory, some 30 MB a
column."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of some identified rows.

    Attributes:
        rows: as they are to be published.
        filtered: rows that a rule leaves out.
        forgotten: rows of patients whose key is destroyed.
        unfit: column → rows that are published without what was sent there.
    """

    rows: pa.Table
    filtered: int
    forgotten: int
    unfit: Mapping[str, int] = field(default_factory=dict)


Convert = Callable[[pa.Table], Converted]
"""Identified rows as the lake keeps them → the same as they are published."""


class Overtaken(LakeError):
    """An erasure, a new rule or another process came first: what was prepared is not committed."""


@dataclass(slots=True)
class TableReplaced:
    """What a swap did.

    Attributes:
        dataset: whose rows.
        rows_before: that were published.
        rows_after: that are now, in their place.
        rows_restricted: they were made of.
        filtered: of these a rule leaves out.
        forgotten: of these belong to patients whose key is destroyed.
        resumed: pieces of work that a killed run before had done.
        unfit: column → rows that are published without what was sent there.
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
    """Publish all that was decided so far anew; safe beside streams, erasures and itself, and goes on when killed.

    The dataset's fence is raised first: lanes go on under today's rules and keys, and what they decide from then on
    is left as it is. Then all that was decided before is added, and then replaced in one commit.

    Args:
        lake: of the dataset; not used by anything else meanwhile.
        kind: of the job, for its journal.
        rules: version of the rules and keys: a job that was killed is gone on with under the same ones only.
        make: makes what converts rows, as rules and keys are now: called once the fence is raised.
        counted: told how many rows were made.

    Raises:
        LakeError: rows were published that there are no identified ones of: nothing is changed. Or another process
            has taken the job over.
        ServiceUnavailable: storage, vault or key service fail; start it again.
    """
    for _ in range(ATTEMPTS):
        run = _Run(lake, kind, rules, counted)
        try:
            return run.go(make)
        except Overtaken:
            if not run.may_go_on():
                raise
        except LakeError:
            run.let_go()  # trying again cannot help: nobody has to wait for it
            raise
        except (OSError, DeltaError) as error:
            if run.is_overtaken():  # an erasure deletes files under the reader's hands
                continue
            raise unavailable(lake.published, error) from None
    raise LakeError("Others always came first", where=lake.published.name, remedy="Try again in a quieter hour.")


@dataclass(slots=True)
class _Books:
    """What the spans say of all that was decided under an older fence.

    Attributes:
        rows: that they have added to the published table.
        kept: rows that they have added to the restricted one.
        ends: where each partition ends, by application id, of those that have published something.
    """

    rows: int = 0
    kept: int = 0
    ends: dict[str, int] = field(default_factory=dict)


class _Run:
    """One try at a swap."""

    def __init__(self, lake: Lake, kind: str, rules: str, counted: Counted | None) -> None:
        self._lake, self._kind, self._rules, self._counted = lake, kind, rules, counted
        self._dataset = lake.dataset.name
        self._target, self._source = lake.published, lake.restricted
        self._journal = Journal(lake.storage, self._dataset)
        self._number = 0
        self._begun: Job | None = None
        self.done = TableReplaced(self._dataset)

    def go(self, make: Callable[[], Convert]) -> TableReplaced:
        """Do it all; see ``swap``."""
        self._finish_committed()
        refuse_missing(self._lake)
        hold_for_maintenance(self._source)
        self._number = hold_for_maintenance(self._target)
        failpoint("swap-held")
        job = self._job()
        failpoint("swap-fenced")
        self._begun = job
        convert = make()
        books = self._settle(job)
        self._check_source(job, books)
        old = self._older(self._target, job)
        self.done.rows_before = sum(file.rows for file in old)
        new = self._work(job, convert)
        failpoint("swap-ready")
        self._commit(job, old, new, books)
        failpoint("swap-committed")
        self._finish_committed()
        for table in (self._target, self._source):
            table.prepare(republished=True)
        return self.done

    def may_go_on(self) -> bool:
        """Whether the job may be begun anew: nobody else has taken it over."""
        self._target.refresh()
        return (self._target.transaction(replacement_app(self._target)) or 0) == self._number

    def let_go(self) -> None:
        """Give the job up, unless somebody else has taken it over: its tables are not held any more."""
        if self._number and self.may_go_on():
            abandon(self._journal, [self._target, self._source])

    def is_overtaken(self) -> bool:
        """Whether the fence was raised since the job has raised it."""
        return self._begun is not None and not self._is_current(self._begun)

    # -- beginning -----------------------------------------------------------------------------------------------

    def _finish_committed(self) -> None:
        """End what was committed, and not ended because it was killed."""
        self._target.refresh()
        if not is_held(self._target):
            release(self._source)
            self._journal.end()

    def _job(self) -> Job:
        """Return the job of before if it is still good, else a new one, its fence raised."""
        job = self._journal.job()
        if job and (job.kind, job.rules) == (self._kind, self._rules) and self._is_current(job):
            self._journal.renew(job)
            return job
        if job and not self._is_current(job):
            self._throw_away(job)
        fence = self._lake.spans.raise_fence(self._dataset)
        job = Job(uuid.uuid4().hex[:16], self._kind, self._dataset, fence, self._rules, clock.now_us())
        self._journal.begin(job)
        return job

    def _throw_away(self, job: Job) -> None:
        """Delete what a job has staged that nobody can go on with: it may be of somebody who was forgotten since."""
        kept = kept_files(self._target)
        for path in self._target.storage.files(suffix=""):
            if path.rpartition("/")[2].startswith(f"swap.{job.id}.") and path not in kept:
                self._target.storage.delete(path)

    def _is_current(self, job: Job) -> bool:
        return self._lake.spans.fence(self._dataset) == job.fence

    def _check_current(self, job: Job) -> None:
        if not self._is_current(job):
            raise Overtaken(
                "An erasure or another republish came first", where=self._target.name, remedy="It begins anew."
            )

    # -- what was decided before ---------------------------------------------------------------------------------

    def _settle(self, job: Job) -> _Books:
        """Add what was decided under the older fence, as far as its files are there; return what the spans say."""
        books = _Books()
        for span in self._spans():
            if span.fence >= job.fence:
                continue
            self._settle_span(span)
            published = span.files_of(self._target.name)
            books.rows += sum(file.rows for file in published)
            books.kept += sum(file.rows for file in span.files_of(self._source.name))
            for app, end in span.transactions.items() if published else ():
                books.ends[app] = max(books.ends.get(app, 0), end)
        return books

    def _check_source(self, job: Job, books: _Books) -> None:
        """Stop if the restricted table lacks rows: what is published of them would be gone too."""
        held = sum(file.rows for file in self._older(self._source, job))
        said = books.kept + (self._source.transaction(rows_app(self._source)) or 0)
        if held != said:
            raise LakeError(
                f"The restricted zone holds {held:,} rows of {said:,}",
                where=self._source.name,
                remedy="Run 'vitalake lake repair', or restore it from a back-up; published rows were not changed.",
            )

    def _spans(self) -> Iterator[Span]:
        return (span for span in self._lake.spans.all_spans() if span.dataset == self._dataset)

    def _settle_span(self, span: Span) -> None:
        for table in (self._source, self._target, self._lake.quarantine):
            files = span.files_of(table.name)
            if table is self._target and not all(table.storage.exists(file.path) for file in files):
                continue  # of a published table that was lost there is nothing to add: it is made anew
            add_span(span, table)

    def _older(self, table: Table, job: Job) -> list[StagedFile]:
        """Return the files of a table that were decided before the fence was raised, or made of such."""
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
        """Yield piece after piece of the work, done; each is written while the next one is converted."""
        self._check_mine()
        writing: Future[Work] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="swap") as writer:
            for files in _pieces_of(self._older(self._source, job)):
                done = self._journal.done([file.path for file in files])
                if done is not None:
                    self.done.resumed += 1
                    yield done
                    continue
                work, parts = self._converted(convert, files)
                if writing is not None:
                    yield self._recorded(job, writing.result())
                writing = writer.submit(self._written, job, work, parts)
            if writing is not None:
                yield self._recorded(job, writing.result())

    def _recorded(self, job: Job, work: Work) -> Work:
        """Record a piece, while nothing is written: the table is looked at anew."""
        self._check_mine()
        self._journal.record(work)
        self._journal.renew(job)
        failpoint("swap-chunk")
        return work

    def _check_mine(self) -> None:
        self._target.refresh()
        if (self._target.transaction(replacement_app(self._target)) or 0) != self._number:
            raise Overtaken(
                "Another process has taken this job over", where=self._target.name, remedy="Let it end; see its output."
            )

    def _converted(self, convert: Convert, files: Sequence[StagedFile]) -> tuple[Work, list[pa.Table]]:
        """Return what became of some files' rows, sorted, and the work, its files still to be written."""
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
        parts = [sort_by(part, keys, last=no_order(part, dataset)) for part in _full(converted())]
        return Work([file.path for file in files], [], rows, filtered, forgotten, dict(unfit)), parts

    def _written(self, job: Job, work: Work, parts: list[pa.Table]) -> Work:
        stage_all(self._target, parts, stem=f"swap.{job.id}.{uuid.uuid4().hex}", into=work.files)
        return work

    # -- the commit ----------------------------------------------------------------------------------------------

    def _commit(self, job: Job, old: Sequence[StagedFile], new: Sequence[StagedFile], books: _Books) -> None:
        target = self._target
        target.refresh()
        number = (target.transaction(maintenance_app(target)) or 0) + 1
        rows = sum(file.rows for file in new) - books.rows
        self._check_current(job)

        def transactions() -> dict[str, int]:
            ends = {app: end for app, end in books.ends.items() if (target.transaction(app) or -1) < end}
            mine = {maintenance_app(target): number, replacement_app(target): self._number + 1, rows_app(target): rows}
            return mine | ends

        def is_good() -> bool:
            return (
                (target.transaction(replacement_app(target)) or 0) == self._number
                and (target.transaction(maintenance_app(target)) or 0) + 1 == number
                and {file.path for file in old} <= target.snapshot().files.keys()
            )

        committed = commit_rewrite(
            target, old, new, stem=f"swap.{job.id}", since=target.delta.version(), transactions=transactions,
            is_good=is_good, data_change=True,
        )  # fmt: skip
        if not committed:
            raise Overtaken("Other maintenance came first", where=target.name, remedy="It begins anew.")


def _pieces_of(files: Sequence[StagedFile]) -> Iterator[list[StagedFile]]:
    """Yield files, day by day, as many at a time as make a piece of work."""
    held: list[StagedFile] = []
    for file in sorted(files, key=lambda file: (str(file.day), file.path)):
        if held and sum(f.rows for f in held) + file.rows > PIECE_ROWS:
            yield held
            held = []
        held.append(file)
    if held:
        yield held


def _gathered(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield batches together while they are of few patients: what repeats in them is opened once."""
    held: list[pa.Table] = []
    rows, patients = 0, 0
    for batch in batches:
        here = sum(len(chunk.dictionary) for chunk in batch[SUBJECT.name].chunks)
        if held and (rows + batch.num_rows > PIECE_ROWS or patients + here > GATHERED_PATIENTS):
            yield joined(held)
            held, rows, patients = [], 0, 0
        held.append(batch)
        rows, patients = rows + batch.num_rows, patients + here
    if held:
        yield joined(held)


def _full(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for part in parts:
        if sum(one.num_rows for one in held) + part.num_rows > TARGET_ROWS:
            yield joined(held)
            held = []
        held.append(part)
    if any(part.num_rows for part in held):
        yield joined(held)


def refuse_missing(lake: Lake) -> None:
    """Return if all that is published of a dataset is kept identified too: of the days that are there.

    Of a published table that was lost all days count.

    Raises:
        LakeError: with the number of rows that could not be made anew.
    """
    target, source = lake.published, lake.restricted
    target.refresh()
    days = {file.day for file in target.snapshot().files.values()}
    missing = 0
    for span in lake.spans.all_spans():
        if span.dataset == lake.dataset.name and not span.files_of(source.name):
            missing += sum(file.rows for file in span.files_of(target.name) if not days or file.day in days)
    if missing:
        raise LakeError(
            f"{missing:,} published rows are not kept as they came",
            where=source.name,
            remedy="They were published before the dataset was kept restricted, and cannot be made anew. Load them "
            "again from their source into a new lake, or let their days go first (vitalake lake rewrite --retention). "
            "Nothing was changed.",
        )
