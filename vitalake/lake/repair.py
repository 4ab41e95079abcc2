"""Repairing a table's Delta log: what cannot be read is set aside, and what it said is said again.

What a lost entry added is known twice: the files lie there, and the spans table names them. What the spans table itself
has lost lies beside it: the row of a span is a file of its own before it is decided. Entries of rewrites are not said
again: what they replaced is still there for a week, and they are made again when their time comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from vitalake import clock
from vitalake.lake.digests import Damaged
from vitalake.lake.lake import Lake
from vitalake.lake.log import LAST, LOG, SET_ASIDE, LogProblem, examine, list_log
from vitalake.lake.rewrite import rows_app
from vitalake.lake.spans import Span, add_span, from_row, is_added
from vitalake.lake.storage import Storage
from vitalake.lake.table import StagedFile, Table
from vitalake.lake.vacuum import kept_files, span_id_of


@dataclass(slots=True)
class LogRepair:
    """What was done to the log of one table.

    Attributes:
        table: its name.
        set_aside: files of the log that were taken away; they lie in ``_damaged`` beside it.
        spans: decided again, or added again.
        rows: of the files that were added again.
        left: what is still wrong, in words; empty: nothing.
        lost: nothing of the log's beginning is left; nothing was done.
    """

    table: str
    set_aside: list[str] = field(default_factory=list)
    spans: int = 0
    rows: int = 0
    left: str = ""
    lost: bool = False


def make_readable(lake: Lake, *, progress: Callable[[str], None] | None = None) -> dict[str, LogRepair]:
    """Make the logs of a lake's tables such that they can be read, and the spans table complete; return what was done.

    Nobody else may write meanwhile. Safe to repeat, and to be killed. ``say_again`` comes after it.

    Raises:
        LakeError, ServiceUnavailable: as whoever writes.
    """
    done = {name: LogRepair(name) for name in sorted(lake.here(), key=lambda name: name != "spans")}
    for name, report in done.items():
        storage = lake.storage.child(name)
        problems = examine(storage)
        if problems and progress:
            progress(f"{name}: {problems[0].how}")
        try:
            report.set_aside = set_damaged_aside(storage, problems)
        except Damaged as error:
            report.left, report.lost = str(error), True
    if not done["spans"].lost:
        _decide_again(lake, done["spans"], _readable(done))
    return done


def say_again(lake: Lake, done: dict[str, LogRepair]) -> None:
    """Add to every table what the spans say that was added to it; the spans table can be read.

    Raises:
        LakeError, ServiceUnavailable: as whoever writes.
    """
    for name in _readable(done):
        _add_again(lake, lake.table(name), done[name])


def _readable(done: dict[str, LogRepair]) -> list[str]:
    return [name for name, report in done.items() if name != "spans" and not report.lost]


# -- taking away what cannot be read -----------------------------------------------------------------------------


def set_damaged_aside(storage: Storage, problems: Iterable[LogProblem]) -> list[str]:
    """Take what is damaged out of a log, until it can be read; return the names of what was taken away.

    Of entries the first damaged one goes and all after it: what they say rests on it.

    Raises:
        Damaged: nothing would be left.
    """
    files, names = list_log(storage), [problem.name for problem in problems if problem.version is None]
    versions = [problem.version for problem in problems if problem.version is not None]
    if versions:
        first = min(versions)
        base = max((v for v, n in files.checkpoints.items() if v < first and not set(n) & set(names)), default=-1)
        if first == 0 or (base < 0 and 0 not in files.entries):
            raise Damaged(
                "The log of a table cannot be repaired: nothing of its beginning is left",
                where=f"{storage.name}/{LOG}",
                remedy=_beginning(storage),
            )
        names += [name for version, name in files.entries.items() if version >= first]
        names += [name for version, some in files.checkpoints.items() if version >= first for name in some]
    if names and files.hint:
        names.append(LAST)
    gone = []
    # Latest first: a killed repair must not leave a gap that hides what comes after it.
    for name in sorted(set(names), reverse=True):
        if storage.fs.get_file_info(f"{storage.root}/{LOG}/{name}").type == pafs.FileType.File:
            storage.fs.create_dir(f"{storage.root}/{SET_ASIDE}", recursive=True)
            stamp = clock.now().strftime("%Y%m%dT%H%M%S")
            storage.fs.move(f"{storage.root}/{LOG}/{name}", f"{storage.root}/{SET_ASIDE}/{stamp}.{name}")
            gone.append(name)
    return gone


def _beginning(storage: Storage) -> str:
    if storage.name.startswith("published/"):
        dataset = storage.name.rpartition("/")[2]
        return f"Run 'vitalake lake rebuild published --dataset {dataset}': it is made again of the restricted zone."
    return "Restore the table's folder from a back-up, whole; see docs/how-to/damage.md."


def set_log_aside(storage: Storage) -> list[str]:
    """Take the whole log of a table away, so that the table is made again; return the names of what was taken."""
    files = list_log(storage)
    names = [*files.entries.values(), *(name for some in files.checkpoints.values() for name in some)]
    every = [LogProblem(name, "") for name in names]
    storage.fs.create_dir(f"{storage.root}/{SET_ASIDE}", recursive=True)  # also where nothing is left to take
    return set_damaged_aside(storage, every)


# -- saying again what was lost ----------------------------------------------------------------------------------


def _decide_again(lake: Lake, report: LogRepair, others: Iterable[str]) -> None:
    """Commit the rows of spans again that were decided: some table has their files, and the spans table not theirs."""
    table = lake.spans.table
    known = kept_files(table)
    decided = {span_id_of(path) for path in known}
    loose = [path for path in table.storage.files() if path not in known and span_id_of(path) not in decided]
    if not loose:
        return
    rows = sorted(((_span(table, path), path) for path in loose), key=lambda item: item[0].decided_us)
    added = {path for name in others for path in kept_files(lake.table(name))}
    for span, path in rows:
        if not {file.path for file in span.files} & added:
            continue  # staged and never decided, or decided and added nowhere: it is read again
        _commit_row(table, span, path)
        report.spans += 1


def _span(table: Table, path: str) -> Span:
    return from_row(table.storage.read_parquet(path).to_pylist()[0])


def _commit_row(table: Table, span: Span, path: str) -> None:
    size = table.storage.fs.get_file_info(f"{table.storage.root}/{path}").size
    day = path.partition("/")[0].removeprefix("day=")
    table.refresh()
    ends = {app: end for app, end in span.transactions.items() if (table.transaction(app) or -1) < end}
    epoch = f"{span.job}/{span.share}/epoch"
    ends[epoch] = max(table.transaction(epoch) or 0, span.epoch)
    table.commit(add=[StagedFile(table.name, path, size, 1, day)], transactions=ends)
    table.refresh()


def _add_again(lake: Lake, table: Table, report: LogRepair) -> None:
    """Add what spans have decided and the table lacks; say so if the rows do not come out even."""
    table.refresh()
    for span in lake.spans.all_spans():
        files = span.files_of(table.name)
        if not files or is_added(span, table):
            continue
        missing = [file for file in files if not table.storage.exists(file.path)]
        if missing:
            report.left = f"{sum(file.rows for file in missing):,} rows of a span are gone, its files with them"
        elif add_span(span, table):
            report.spans += 1
            report.rows += sum(file.rows for file in files)
    if report.set_aside and not report.left:
        report.left = _uneven(lake, table)


def _uneven(lake: Lake, table: Table) -> str:
    table.refresh()
    held = sum(file.rows for file in table.snapshot().files.values())
    said = table.transaction(rows_app(table)) or 0
    said += sum(f.rows for s in lake.spans.all_spans() if is_added(s, table) for f in s.files_of(table.name))
    return "" if held == said else f"{held:,} rows, spans and rewrites say {said:,}"
