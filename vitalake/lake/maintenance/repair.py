"""Repairs a table's Delta log: moves entries that cannot be read away, and commits again what they added.

What a lost entry added is recorded twice: the files still exist, and the spans table names them. What the spans table
itself has lost lies beside it, because each span's row is first staged as a file of its own. Entries of rewrites are
not committed again: the files that a rewrite replaced stay for a week, and later maintenance repeats the rewrite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deltalake.exceptions import DeltaError

from vitalake import clock
from vitalake.causes import unavailable
from vitalake.errors import LakeError
from vitalake.lake.commits.adding import add_span, in_order, missing_spans
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import Span, begun_by, fence_of, left_by, to_row
from vitalake.lake.commits.transactions import REPAIRED, fence_app, kind_of, lost_app
from vitalake.lake.datasets.dataset import ASSOCIATION, Dataset
from vitalake.lake.maintenance.beginning import (
    can_restore_first_entry,
    checkpoint_beginning,
    restore_first_entry,
    restore_newest_entry,
)
from vitalake.lake.maintenance.journal import Journal
from vitalake.lake.maintenance.lock import unlock_table
from vitalake.lake.maintenance.lost_spans import loose_rows, passed_spans
from vitalake.lake.maintenance.rewrite import is_locked
from vitalake.lake.maintenance.vacuum import kept_files
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.entry_digests import LogProblem
from vitalake.lake.tables.log import examine, explained
from vitalake.lake.tables.log_files import LAST, LOG, SET_ASIDE, STAMP, cuts, list_log, newest_cut, note_log_set_aside
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import StagedFile, Table


@dataclass(slots=True)
class LogRepair:
    """What was done to the log of one table.

    Attributes:
        table: the table's name.
        set_aside: files that were moved out of the log, to ``_damaged`` beside it.
        restored: entries that were written again, empty: the checkpoint has what they said.
        spans: spans that were decided again or added again.
        rows: rows of the files that were added again.
        left: what is still wrong, in words; empty: nothing.
        lost: whether the log's beginning is lost, so that nothing was done.
    """

    table: str
    set_aside: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    spans: int = 0
    rows: int = 0
    left: str = ""
    lost: bool = False


def make_readable(lake: Lake, *, progress: Callable[[str], None] | None = None) -> dict[str, LogRepair]:
    """Make the logs of a lake's tables readable and the spans table complete; return what was done, by table.

    No other process may write during the call. It may be killed and repeated. Call ``add_missing_spans`` after it.

    Raises:
        LakeError, ServiceUnavailable: a commit failed.
    """
    forms = lake.here()
    done = {name: LogRepair(name) for name in sorted(forms, key=lambda name: name != "spans")}
    for name, report in done.items():
        storage = lake.storage.child(name)
        problems = examine(storage)
        if problems and progress:
            progress(f"{name}: {problems[0].how}")
        try:
            # Not for a published table: only the lost entry said under which data classes its rows were published, so
            # the whole table is published again.
            if not name.startswith("published/") and can_restore_first_entry(storage, problems):
                _restore_beginning(storage, forms[name], problems, report)
                Table(forms[name], lake.storage, zone=name.rpartition("/")[0]).record_checkpoint()
            else:
                report.set_aside = set_damaged_aside(storage, problems)
            report.restored = restore_newest_entry(storage)
        except Damaged as error:
            report.left, report.lost = str(error), True
        except OSError as error:
            raise unavailable(
                error,
                "The log of a table cannot be repaired",
                where=f"{name}/{LOG}",
                remedy="Check its permissions and the disk, then run 'vitalake lake repair' again.",
            ) from None
    if not done["spans"].lost:
        _decide_again(lake, done["spans"], _readable(done))
    return done


def _restore_beginning(storage: Storage, form: Dataset, problems: Sequence[LogProblem], report: LogRepair) -> None:
    first = restore_first_entry(storage, form)
    report.set_aside = [first, *set_damaged_aside(storage, [problem for problem in problems if problem.version != 0])]
    try:
        checkpoint_beginning(storage)
    except (OSError, DeltaError) as error:
        raise explained(storage, error) from None


def add_missing_spans(lake: Lake, done: dict[str, LogRepair]) -> None:
    """Add to every table the decided spans that it lacks; the spans table must be readable.

    Raises:
        LakeError, ServiceUnavailable: a commit failed.
    """
    attributed = _fence_off(lake)
    for name in _readable(done):
        try:
            table = lake.table(name)
            _add_again(lake, table, done[name])
            _unlock(lake, table)
            newest = newest_cut(table.storage)
            if name.startswith("restricted/") and table.dataset.kind == ASSOCIATION:
                # Whoever compares versions looks at all rows again: the log can have been restored from a back-up, or
                # an earlier repair been killed, which nothing else shows once it has grown again.
                newest = max(newest, attributed, table.delta.version())
            _outnumber(table, newest)
        except LakeError as error:  # go on with the other tables
            done[name].left = f"{error.what} ({error.where})"


def _readable(done: dict[str, LogRepair]) -> list[str]:
    return [name for name, report in done.items() if name != "spans" and not report.lost]


# -- moving damaged files away -----------------------------------------------------------------------------------


def set_damaged_aside(storage: Storage, problems: Iterable[LogProblem]) -> list[str]:
    """Move damaged files out of a log, so that it can be read; return the names of the moved files.

    The first damaged entry is moved and all entries after it, because they build on it.

    Raises:
        Damaged: the log would have no beginning.
    """
    files, names = list_log(storage), [problem.name for problem in problems if problem.version is None]
    there = {LAST, *files.entries.values(), *(name for some in files.checkpoints.values() for name in some)}
    versions = [problem.version for problem in problems if problem.version is not None]
    if versions:
        first = min(versions)
        base = max((v for v, n in files.checkpoints.items() if v < first and not set(n) & set(names)), default=-1)
        if first == 0 or (base < 0 and 0 not in files.entries):
            raise Damaged(
                "The log of a table cannot be repaired: its beginning is lost",
                where=f"{storage.name}/{LOG}",
                remedy=_beginning(storage),
            )
        names += [name for version, name in files.entries.items() if version >= first]
        names += [name for version, some in files.checkpoints.items() if version >= first for name in some]
    if names and files.hint:
        names.append(LAST)
    moved = []
    # Latest first: a killed repair must not leave a gap, which would hide the entries after it.
    for name in sorted(set(names), reverse=True):
        if name in there:
            storage.fs.create_dir(f"{storage.root}/{SET_ASIDE}", recursive=True)
            stamp = clock.now().strftime(STAMP)
            storage.fs.move(f"{storage.root}/{LOG}/{name}", f"{storage.root}/{SET_ASIDE}/{stamp}.{name}")
            moved.append(name)
    return moved


def _beginning(storage: Storage) -> str:
    if storage.name.startswith("published/"):
        dataset = storage.name.rpartition("/")[2]
        return f"Run 'vitalake lake rebuild published --dataset {dataset}': it makes it again from the restricted zone."
    return "Restore the table's whole folder from a back-up; see docs/how-to/damage.md."


def set_log_aside(storage: Storage, fence: int) -> list[str]:
    """Move the whole log of a published table away, so that the table is made again; return the moved files' names.

    Args:
        storage: the table's.
        fence: of the dataset, just raised.
    """
    files = list_log(storage)
    names = [*files.entries.values(), *(name for some in files.checkpoints.values() for name in some)]
    every = [LogProblem(name, "") for name in names]
    note_log_set_aside(storage, fence)
    return set_damaged_aside(storage, every)


# -- committing what was lost ------------------------------------------------------------------------------------


def _decide_again(lake: Lake, report: LogRepair, others: Iterable[str]) -> None:
    """Commit the rows of spans again that were decided and that the spans table has lost.

    A span was decided if some table has its files. Another one was decided if positions are beyond it and no span of
    those that are known covers it: those of the spans table, or of a table that was to be given rows of it.
    """
    table = lake.spans.table
    table.refresh()
    loose = loose_rows(table)
    if not loose:
        return
    tables = [lake.table(name) for name in others]
    added = {path for other in tables for path in kept_files(other)}
    # Other spans were never decided, or were added nowhere: their messages are read again.
    decided = [(span, path) for span, path in loose if {file.path for file in span.files} & added]
    table.refresh()
    reached: dict[str, int] = {}
    for other in (table, *tables):
        for app, position in other.all_transactions().items():
            if kind_of(app)[0] == "position":
                reached[app] = max(reached.get(app, 0), position)
    known = [*lake.spans.all_spans(), *(span for span, _ in decided)]
    found = {span.span_id for span, _ in decided}
    decided += passed_spans([item for item in loose if item[0].span_id not in found], known, reached)
    paths = {span.span_id: path for span, path in decided}
    spans = in_order(span for span, _ in decided)
    begun: dict[str, int] = {}  # by the last job that read a topic: it can have taken it over
    for span in spans:
        begun |= begun_by(span)
    for span in spans:
        _commit_row(table, span, paths[span.span_id], begun)
        report.spans += 1


def _fence_off(lake: Lake) -> int:
    """Raise fences and epochs beyond all that the log has lost, so that whoever holds a lost one can decide nothing.

    Returns the newest version of the table of associations by which anything was attributed; -1: nothing was.

    Without that, the fence would be back where it was before the raise that was lost: a lane with earlier rules or keys
    would be right again, and so would be a republish that was interrupted before it. Each entry that was set aside can
    have begun an epoch.
    """
    table, highest, attributed = lake.spans.table, dict[str, int](), 0
    for span in lake.spans.all_spans():
        attributed = max(attributed, span.associations)
        for app, height in fence_of(span).items():
            highest[app] = max(highest.get(app, 0), height)
    table.refresh()
    found, cut = table.all_transactions(), newest_cut(table.storage)
    attributed = max([attributed, *(v for app, v in found.items() if kind_of(app)[0] == "associations")])
    raised = {app: height for app, height in highest.items() if height > found.get(app, 0)}
    if cut > found.get(REPAIRED, -1):
        datasets = {name.rpartition("/")[2] for name in lake.here()}
        fences = {fence_app(dataset) for dataset in datasets} | highest.keys()
        now = clock.now_us()
        raised = {app: max(found.get(app, 0) + 1, highest.get(app, 0) + 1, now) for app in sorted(fences)}
        raised |= {app: epoch + cut + 1 for app, epoch in found.items() if kind_of(app)[0] == "epoch"}
        raised[REPAIRED] = cut
    if raised:
        _commit(table, raised)
    _outnumber(table, cut)
    return attributed - 1  # a span has the number of the next version


def _outnumber(table: Table, version: int) -> None:
    """Commit until the table's versions are beyond one that was lost: who compares numbers must see another one."""
    table.refresh()
    recorded = table.transaction(REPAIRED)
    if version >= 0 and (recorded is None or recorded < version):
        _commit(table, {REPAIRED: version})
    while version >= table.delta.version():
        _commit(table, {})


def _commit_row(table: Table, span: Span, path: str, begun: Mapping[str, int]) -> None:
    table.refresh()
    if path:
        size = table.storage.fs.get_file_info(f"{table.storage.root}/{path}").size
        files = [StagedFile(table.name, path, size, 1, path.partition("/")[0].removeprefix("day="))]
    else:
        files = table.stage(to_row(span), stem=span.span_id)
    ends = {app: end for app, end in span.transactions.items() if (table.transaction(app) or -1) < end}
    if not span.load_us and span.kind == "stream":  # an earlier release took the epoch for it
        span.load_us = span.epoch
    ends |= {app: max(table.transaction(app) or 0, number) for app, number in left_by(span).items()}
    # Lost with the entry by which the input was begun: without them nobody knows that it was.
    ends |= {app: begun[app] for app in begun_by(span) if table.transaction(app) is None}
    if lost := table.transaction(lost_app(table.name)):  # it was left out as lost, and is back
        ends[lost_app(table.name)] = lost - 1
    _commit(table, ends, files)


def _commit(table: Table, transactions: Mapping[str, int], files: Sequence[StagedFile] = ()) -> None:
    try:
        table.commit(add=files, transactions=transactions)
    except (OSError, DeltaError) as error:
        raise explained(table.storage, error, "Table cannot be committed") from None
    table.refresh()


def _add_again(lake: Lake, table: Table, report: LogRepair) -> None:
    """Add the decided spans that the table lacks.

    This adds also files that do not exist any more, such as those deleted by an erasure whose own entry is lost. The
    table then reports each as missing, and it is made again or left out like any damaged file. If it was skipped, the
    positions of later spans would show for ever that it had been added.
    """
    table.refresh()
    for span in missing_spans(lake.spans.all_spans(), [table]):
        if add_span(span, table):
            report.spans += 1
            report.rows += sum(file.rows for file in span.files_of(table.name))


def _unlock(lake: Lake, table: Table) -> None:
    """Unlock a table whose log has lost the entry that unlocked it: nobody else would."""
    if is_locked(table) and cuts(table.storage) and Journal(lake.storage, table.dataset.name).job() is None:
        unlock_table(table)
