"""Rewrites rows that are already in a table: the one way for compaction, erasure, re-key and republish.

Without care, two compactions from one stale snapshot would both commit, and double the rows without an error. So would
removing a file that another process has already replaced. So every rewrite also commits the next number of a
transaction of its table. It commits only if the table still has the number at which the rewrite was planned, and all
files that it removes. After any failure it looks at the table before it tries again.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError, DeltaError

from vitalake.errors import LakeError, ServiceUnavailable, VitaLakeError
from vitalake.failpoints import failpoint
from vitalake.lake.commits.transactions import lost_app, maintenance_app, replacement_app, rows_app
from vitalake.lake.tables.log import explained
from vitalake.lake.tables.schema import conform
from vitalake.lake.tables.sorting import repeating
from vitalake.lake.tables.staging import Counted, Piece, stage_all
from vitalake.lake.tables.table import COMMIT_ATTEMPTS, Snapshot, StagedFile, Table

_log = logging.getLogger(__name__)

ATTEMPTS = 5
"""A rewrite that loses to other maintenance this often in a row should wait for a quieter hour."""

BATCH_ROWS = 262_144
"""Rows read at a time: one batch is in memory, and what the transform keeps. Smaller batches build
dictionaries more often."""

Plan = Callable[[Snapshot], Sequence[StagedFile]]
"""Chooses the files of a snapshot to be replaced; an empty choice ends the rewrite. Called for every new snapshot."""

Transform = Callable[["Rows"], Iterable[pa.Table | Piece]]
"""Makes, from the rows of those files, the rows of one new file after the other."""

_REWRITE_FILE = re.compile(r"rewrite\.(?P<number>\d+)\.[0-9a-f]{32}-")
"""The names of files that rewrites have staged."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a plan's files, in batches; may be iterated more than once. Text stays in dictionaries."""

    table: Table
    files: tuple[StagedFile, ...]

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield all rows, file by file."""
        for file in self.files:
            yield from read_file(self.table, file)

    @property
    def count(self) -> int:
        """Return how many rows the files hold."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The files that a rewrite removed and added."""

    removed: tuple[StagedFile, ...]
    added: tuple[StagedFile, ...]

    @property
    def rows(self) -> int:
        """Return how many rows the new files hold."""
        return sum(file.rows for file in self.added)

    @property
    def rows_before(self) -> int:
        """Return how many rows the old files hold."""
        return sum(file.rows for file in self.removed)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt: the number of its transaction, the prefix of its files' names, the version it was planned on."""

    number: int
    stem: str
    planned_on: int


def rewrite_number(path: str) -> int:
    """Return the number of the rewrite that staged a file; 0: no rewrite staged it."""
    match = _REWRITE_FILE.match(path.rpartition("/")[2])
    return int(match["number"]) if match else 0


def is_locked(table: Table) -> bool:
    """Return whether the table, as last refreshed, is locked by a replacement: its rows must stay in their files."""
    return (table.transaction(replacement_app(table.name)) or 0) % 2 == 1


def rewrite(
    table: Table,
    plan: Plan,
    transform: Transform,
    *,
    data_change: bool = False,
    lost: bool = False,
    counted: Counted | None = None,
) -> Rewritten | None:
    """Replace files by what ``transform`` makes of their rows, in one commit; return None if no file is chosen.

    Args:
        table: nothing else may use the object during the call; other processes may read and append.
        plan: chooses the files, on each new snapshot.
        transform: returns all rows, unless ``data_change``.
        data_change: whether rows are changed, dropped or added. A transaction sums up their number, so that the table
            can always be compared with the spans. A rewrite that only moves rows does nothing while the table is
            locked.
        lost: whether the dropped rows are lost and not deleted on purpose; the same commit counts them. Only with
            ``data_change``.
        counted: called with the number of rows made since its last call.

    Raises:
        LakeError: rows would be lost or doubled (nothing is committed), or other maintenance always came first.
        ServiceUnavailable: storage failed; files of the rewrite may be left for the sweeper.
    """
    abandoned: list[tuple[_Attempt, list[StagedFile], int]] = []
    try:
        for _ in range(ATTEMPTS):
            table.refresh()
            abandoned = [entry for entry in abandoned if not _throw_away(table, *entry)]
            snapshot = table.snapshot()
            old = [] if is_locked(table) and not data_change else list(plan(snapshot))
            if not old:
                return None
            number = (table.transaction(maintenance_app(table.name)) or 0) + 1
            attempt = _Attempt(number, f"rewrite.{number}.{uuid.uuid4().hex}", snapshot.version)
            new = _stage(table, Rows(table, tuple(old)), transform, attempt, counted, row_preserving=not data_change)
            failpoint("rewrite-staged")
            if _commit(table, old, new, attempt, data_change=data_change, lost=lost):
                failpoint("rewrite-committed")
                for entry in abandoned:
                    _throw_away(table, *entry)
                return Rewritten(tuple(old), tuple(new))
            abandoned.append((attempt, new, table.delta.version()))
    except (OSError, DeltaError) as error:
        raise unavailable(table, error) from None
    raise LakeError(
        "Other maintenance of the table always came first",
        where=table.name,
        remedy="Wait until it has ended, then try again.",
    )


def unavailable(table: Table, error: Exception) -> VitaLakeError:
    """Return the error for a rewrite that storage made fail."""
    return explained(table.storage, error, "Table cannot be rewritten")


def _stage(
    table: Table, rows: Rows, transform: Transform, attempt: _Attempt, counted: Counted | None, *, row_preserving: bool
) -> list[StagedFile]:
    """Write the new files; on failure delete those already written, because no log or journal names them yet."""
    new: list[StagedFile] = []
    try:
        stage_all(table, transform(rows), stem=attempt.stem, into=new, counted=counted)
        after = sum(file.rows for file in new)
        if row_preserving and rows.count != after:
            raise LakeError(
                f"A rewrite would make {after} rows out of {rows.count}",
                where=f"{table.name}@{attempt.planned_on}",
                remedy="Nothing was committed. Run 'vitalake lake verify'.",
            )
    except BaseException:
        for file in new:
            table.storage.delete(file.path)
        raise
    return new


def read_file(table: Table, file: StagedFile, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a file's rows, batch by batch; text stays in dictionaries, which need a fraction of the memory.

    By default it reads all columns of the table, also those that only a newer release knows: a compaction must not lose
    them.

    Raises:
        Damaged: the file does not hold what was written to it, or is missing.
        FileNotFoundError: the file was replaced and deleted: read the newest version instead.
    """
    try:
        # This checks the digest: damaged rows must not be written again with a valid one.
        source = table.storage.open_input(file.path)
    except FileNotFoundError as error:
        raise table.lost_file() or error from None
    schema = table.state.columns
    schema = pa.schema([schema.field(name) for name in columns]) if columns else schema
    encoded = [name for name in repeating(table.dataset) if name in schema.names]
    with source:
        footer = pq.read_metadata(source)
        present = [name for name in schema.names if name in footer.schema.names]
        texts = [name for name in encoded if name in present]  # a file of an earlier release may lack one
        reader = pq.ParquetFile(source, read_dictionary=texts, metadata=footer, page_checksum_verification=True)
        for batch in reader.iter_batches(batch_size=BATCH_ROWS, columns=present):
            yield _encoded(conform(pa.Table.from_batches([batch]), schema), encoded)


def _encoded(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the rows with these columns in dictionaries, also those that a file lacks and that are all null."""
    for name in names:
        if not pa.types.is_dictionary(rows[name].type):
            rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].dictionary_encode())
    return rows


def _commit(
    table: Table,
    old: Sequence[StagedFile],
    new: Sequence[StagedFile],
    attempt: _Attempt,
    *,
    data_change: bool,
    lost: bool,
) -> bool:
    """Commit; return whether it is committed, even if the reply was lost. False: the plan is outdated."""
    table.refresh()

    def transactions() -> dict[str, int]:
        numbers = {maintenance_app(table.name): attempt.number}
        if lost:
            gone = sum(file.rows for file in old) - sum(file.rows for file in new)
            numbers[lost_app(table.name)] = (table.transaction(lost_app(table.name)) or 0) + gone
        return numbers | (row_change(table, old, new) if data_change else {})

    def is_good() -> bool:
        number = (table.transaction(maintenance_app(table.name)) or 0) + 1
        return number == attempt.number and {file.path for file in old} <= table.snapshot().files.keys()

    return commit_rewrite(
        table, old, new, stem=attempt.stem, since=attempt.planned_on, transactions=transactions, is_good=is_good,
        data_change=data_change,
    )  # fmt: skip


def commit_rewrite(
    table: Table,
    old: Sequence[StagedFile],
    new: Sequence[StagedFile],
    *,
    stem: str,
    since: int,
    transactions: Callable[[], Mapping[str, int]],
    is_good: Callable[[], bool],
    data_change: bool,
) -> bool:
    """Replace files in one commit; try again when an append comes first. Return False when ``is_good`` says no.

    Args:
        table: just refreshed.
        old: files to remove.
        new: files to add.
        stem: prefix of the new files' names, by which the commit is found in the log if its reply was lost.
        since: a version older than any attempt to commit.
        transactions: the transactions to commit with; called on the table as last refreshed.
        is_good: whether the plan is still valid for the table as last refreshed; always false once it is committed.
        data_change: see ``rewrite``.

    Raises:
        OSError, DeltaError: storage refuses.
        ServiceUnavailable: appends always come first.
    """
    for _ in range(COMMIT_ATTEMPTS):
        if not is_good():
            return False
        try:
            table.commit(add=new, remove=old, transactions=transactions(), data_change=data_change)
        except (CommitFailedError, OSError, DeltaError) as error:
            # On object storage the request may still be under way, for the very next version: then either it or the
            # next try becomes that version, and the other one fails.
            table.refresh()
            if is_in_log(table, stem, since=since):
                return True
            if not isinstance(error, CommitFailedError):
                raise
            _log.info("rewrite came second", extra={"table": table.name})
            continue
        table.refresh()
        return True
    raise ServiceUnavailable(
        "Appends to the table always come first", where=table.name, remedy="Try again in a quieter hour."
    )


def row_change(table: Table, old: Sequence[StagedFile], new: Sequence[StagedFile]) -> dict[str, int]:
    """Return the transaction that records how many rows more or fewer a table holds than spans have added."""
    change = sum(file.rows for file in new) - sum(file.rows for file in old)
    return {rows_app(table.name): (table.transaction(rows_app(table.name)) or 0) + change}


def is_in_log(table: Table, stem: str, *, since: int) -> bool:
    """Return whether files of this stem were committed after a version.

    The snapshot cannot tell: another rewrite may have replaced the files already.
    """
    name = stem.encode()
    for version in range(since + 1, table.delta.version() + 1):
        with table.storage.fs.open_input_file(f"{table.storage.root}/_delta_log/{version:020}.json") as entry:
            if name in entry.read():
                return True
    return False


def _throw_away(table: Table, attempt: _Attempt, files: list[StagedFile], seen_version: int) -> bool:
    """Delete the files of a failed attempt if it cannot be committed any more; return whether they were deleted.

    On object storage the request of a failed commit may still be under way, at most for the version after the newest
    one we saw. Once that version exists and is not ours, the request must fail; until then the files are kept, and the
    sweeper deletes them if this process ends.
    """
    under_way = not table.storage.local and table.delta.version() <= seen_version
    if under_way or is_in_log(table, attempt.stem, since=attempt.planned_on):
        return False
    for file in files:
        table.storage.delete(file.path)
    return True
