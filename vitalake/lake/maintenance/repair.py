"""Repairing a table's Delta log: what cannot be read is set aside, and what it said is said again.

What a lost entry added is known twice: the files lie there, and the spans table names them. What the spans table itself
has lost lies beside it: the row of a span is a file of its own before it is decided. Entries of rewrites are not said
again: what they replaced is still there for a week, and they are made again when their time comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
from deltalake.exceptions import DeltaError

from vitalake import clock
from vitalake.errors import LakeError
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import Chain
from vitalake.lake.commits.spans import Part, Span, add_span, from_row, to_row
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.maintenance.beginning import begin_again, can_begin_again, settle_beginning
from vitalake.lake.maintenance.rewrite import lost_app, read_file
from vitalake.lake.maintenance.vacuum import kept_files, span_id_of
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.log import LAST, LOG, SET_ASIDE, STAMP, LogProblem, examine, explained, list_log, read_actions
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import StagedFile, Table


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
    forms = lake.here()
    done = {name: LogRepair(name) for name in sorted(forms, key=lambda name: name != "spans")}
    for name, report in done.items():
        storage = lake.storage.child(name)
        problems = examine(storage)
        if problems and progress:
            progress(f"{name}: {problems[0].how}")
        try:
            # A published table is made again as a whole: by which classes its rows were made the entry said.
            if not name.startswith("published/") and can_begin_again(storage, problems):
                _begin_again(storage, forms[name], problems, report)
            else:
                report.set_aside = set_damaged_aside(storage, problems)
        except Damaged as error:
            report.left, report.lost = str(error), True
    if not done["spans"].lost:
        _decide_again(lake, done["spans"], _readable(done))
    return done


def _begin_again(storage: Storage, form: Dataset, problems: Sequence[LogProblem], report: LogRepair) -> None:
    first = begin_again(storage, form)
    report.set_aside = [first, *set_damaged_aside(storage, [problem for problem in problems if problem.version != 0])]
    try:
        settle_beginning(storage)
    except (OSError, DeltaError) as error:
        raise explained(storage, error) from None


def say_again(lake: Lake, done: dict[str, LogRepair]) -> None:
    """Add to every table what the spans say that was added to it; the spans table can be read.

    Raises:
        LakeError, ServiceUnavailable: as whoever writes.
    """
    for name in _readable(done):
        try:
            _add_again(lake, lake.table(name), done[name])
        except LakeError as error:  # the other tables are repaired all the same
            done[name].left = f"{error.what} ({error.where})"


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
    there = {LAST, *files.entries.values(), *(name for some in files.checkpoints.values() for name in some)}
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
        if name in there:
            storage.fs.create_dir(f"{storage.root}/{SET_ASIDE}", recursive=True)
            stamp = clock.now().strftime(STAMP)
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
    """Commit the rows of spans again that were decided: some table has their files, and the spans table not theirs.

    A span of repeats alone has no files. It was decided if it fills a gap: somebody went on where it ends.
    """
    table = lake.spans.table
    table.refresh()
    loose = _loose_rows(table)
    if not loose:
        return
    rows = sorted(loose, key=lambda item: item[0].decided_us)
    added = {path for name in others for path in kept_files(lake.table(name))}
    # Others were staged and never decided, or decided and added nowhere: they are read again.
    again = [(span, path) for span, path in rows if {file.path for file in span.files} & added]
    table.refresh()
    known = [*lake.spans.all_spans(), *(span for span, _ in again)]
    again += _filling([item for item in rows if not item[0].files], known)
    for span, path in sorted(again, key=lambda item: item[0].decided_us):
        _commit_row(table, span, path)
        report.spans += 1


def _loose_rows(table: Table) -> list[tuple[Span, str]]:
    """Return the spans that the table does not have and whose rows lie beside it, with their file; merged: without.

    Also of one that was left out as damaged, once its file is back from a back-up.
    """
    here, ids = table.snapshot().files, set[str]()
    for path, file in here.items():
        own = span_id_of(path)
        try:
            ids |= {own} if own else _ids_of(table, file)
        except (Damaged, FileNotFoundError):  # it is merged, and tells nothing: what it may have is not loose
            ids |= {span_id_of(kept) for kept in kept_files(table)}
    found = []
    for path in table.storage.files():
        if path in here or span_id_of(path) in ids:
            continue
        with suppress(Damaged, FileNotFoundError, pa.ArrowException):
            spans = map(from_row, table.storage.read_parquet(path).to_pylist())
            found += [(span, path if span_id_of(path) else "") for span in spans if span.span_id not in ids]
    return found


def _ids_of(table: Table, file: StagedFile) -> set[str]:
    return {span_id for part in read_file(table, file, columns=["span_id"]) for span_id in part["span_id"].to_pylist()}


def _filling(loose: Iterable[tuple[Span, str]], known: Iterable[Span]) -> list[tuple[Span, str]]:
    """Return the spans that fill gaps between the known ones.

    Of two that a killed worker and its successor made of the same messages it is the successor's.
    """
    chains: dict[str, Chain] = {}
    for span in known:
        _stretch(span, chains)
    found = []
    for span, path in sorted(loose, key=lambda item: (item[0].epoch, item[0].decided_us), reverse=True):
        gaps = {app: chains[app].gaps for app in span.transactions if app in chains}
        inside, beside = 0, 0
        for part in span.parts:
            app, start = part.id.app_id(span.dataset), _start(part)
            inside += any(low <= start and part.end <= high for low, high in gaps.get(app, []))
            beside += app not in chains or start >= chains[app].end
        if inside and inside + beside == len(span.parts):
            _stretch(span, chains)
            found.append((span, path))
    return found


def _stretch(span: Span, chains: dict[str, Chain]) -> None:
    for part in span.parts:
        chains.setdefault(part.id.app_id(span.dataset), Chain()).add(_start(part), part.end)


def _start(part: Part) -> int:
    return part.first if part.start is None else part.start


def _commit_row(table: Table, span: Span, path: str) -> None:
    table.refresh()
    if path:
        size = table.storage.fs.get_file_info(f"{table.storage.root}/{path}").size
        files = [StagedFile(table.name, path, size, 1, path.partition("/")[0].removeprefix("day="))]
    else:
        files = table.stage(to_row(span), stem=span.span_id)
    ends = {app: end for app, end in span.transactions.items() if (table.transaction(app) or -1) < end}
    epoch = f"{span.job}/{span.shard}/epoch"
    ends[epoch] = max(table.transaction(epoch) or 0, span.epoch)
    if lost := table.transaction(lost_app(table)):  # it was left out, and is back
        ends[lost_app(table)] = lost - 1
    table.commit(add=files, transactions=ends)
    table.refresh()


def _add_again(lake: Lake, table: Table, report: LogRepair) -> None:
    """Add what spans have decided and the table lacks.

    Also files that are gone, as an erasure leaves it whose own entry is lost: the table then says of each that it is
    missing, and it is made again, or left out, as any damaged file. Were it passed over, the positions of the spans
    after it would say for ever that it had been added.
    """
    spans = list(lake.spans.all_spans())
    newest = _misquoted(table.storage, table.name, spans)
    if newest:
        report.set_aside += set_damaged_aside(table.storage, [newest])
        lake.forget(table.name)  # its object knows an entry that is gone
        table = lake.table(table.name)
    table.refresh()
    for span in spans:
        if add_span(span, table):
            report.spans += 1
            report.rows += sum(file.rows for file in span.files_of(table.name))


def _misquoted(storage: Storage, name: str, spans: Iterable[Span]) -> LogProblem | None:
    """Return the newest entry of a log if it adds a span's files and says something else of them than the span does.

    No later entry holds its digest. A bit that flips in a position would be a position, and messages passed over.
    """
    files = list_log(storage)
    newest = max(files.entries, default=-1)
    if newest < 1:
        return None
    added, said = read_actions(storage, files.entries[newest])
    mine = [span for span in spans if span.span_id in {span_id_of(path) for path in added}]
    for span in mine:
        wanted = {file.path: (file.size, file.rows) for file in span.files_of(name)}
        if said != span.transactions or added != wanted:
            return LogProblem(files.entries[newest], "it says something else than its span", newest)
    return None
