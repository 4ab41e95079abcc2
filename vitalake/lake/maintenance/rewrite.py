"""The one way in which rows that are in a table already are written anew: compaction, erasure, re-key, republish.

Two compactions from one stale snapshot would both commit and double the rows without an error; so would a removal of
a file that somebody else has replaced. Hence every rewrite commits the next number of a transaction of the table's
own, and does so only on an object that still has the number it was planned at, and all files it removes; after any
failure look before trying again.
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
from vitalake.lake.tables.log import explained
from vitalake.lake.tables.schema import conform
from vitalake.lake.tables.sorting import repeating
from vitalake.lake.tables.staging import Counted, Piece, stage_all
from vitalake.lake.tables.table import COMMIT_ATTEMPTS, Snapshot, StagedFile, Table

_log = logging.getLogger(__name__)

ATTEMPTS = 5
"""A rewrite that loses to another maintenance so often in a row should wait for a quieter hour."""

BATCH_ROWS = 262_144
"""Rows read at a time: what the transform asks for is in memory, and one batch. Fewer cost a dictionary more often."""

Plan = Callable[[Snapshot], Sequence[StagedFile]]
"""Which files of a snapshot are to be replaced; none ends the rewrite. Asked again on every new snapshot."""

Transform = Callable[["Rows"], Iterable[pa.Table | Piece]]
"""The rows of those files → the rows of one new file after the other."""

_REWRITE_FILE = re.compile(r"rewrite\.(?P<number>\d+)\.[0-9a-f]{32}-")
"""The names of files that rewrites have staged."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a plan's files, in batches; may be gone through more than once. Text stays in dictionaries."""

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
    """What a rewrite replaced by what."""

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
    """One try: the number of its transaction, the start of its files' names, the version it was planned on."""

    number: int
    stem: str
    planned_on: int


def maintenance_app(table: Table) -> str:
    """Return the name of the transaction that only rewrites of this table commit, counting up."""
    return f"maintenance/{table.name}"


def rows_app(table: Table) -> str:
    """Return the name of the transaction that says by how many rows rewrites have changed what spans added."""
    return f"rows/{table.name}"


def replacement_app(table: Table) -> str:
    """Return the name of the transaction that is odd while somebody prepares to swap the whole table: see swap.py."""
    return f"swap/{table.name}"


def lost_app(table: Table) -> str:
    """Return the name of the transaction that says how many rows were left out of the table as lost."""
    return f"lost/{table.name}"


def rewrite_number(path: str) -> int:
    """Return the number of the rewrite that staged a file; 0: no rewrite staged it."""
    match = _REWRITE_FILE.match(path.rpartition("/")[2])
    return int(match["number"]) if match else 0


def is_held(table: Table) -> bool:
    """Whether the table, as the object has it, waits for a swap: its files must stay as they are."""
    return (table.transaction(replacement_app(table)) or 0) % 2 == 1


def rewrite(
    table: Table,
    plan: Plan,
    transform: Transform,
    *,
    data_change: bool = False,
    lost: bool = False,
    counted: Counted | None = None,
) -> Rewritten | None:
    """Replace files by what ``transform`` makes of their rows, in one commit; return None when nothing is planned.

    Args:
        table: not to be used by anything else meanwhile; readers and appends of other processes go on.
        plan: chooses the files, on each fresh snapshot.
        transform: gives back all rows, unless ``data_change``.
        data_change: whether rows are changed, dropped or added; how many is added up in a transaction, so that they
            can be held against the spans for ever. One that only moves rows does nothing while a swap is prepared.
        lost: whether the rows dropped are lost, not meant to go; the same commit says how many. With ``data_change``.
        counted: told how many rows were made since it was told the last time.

    Raises:
        LakeError: rows would be lost or doubled (nothing is committed), or other maintenance always came first.
        ServiceUnavailable: storage fails; files of the rewrite may be left for the sweeper.
    """
    abandoned: list[tuple[_Attempt, list[StagedFile], int]] = []
    try:
        for _ in range(ATTEMPTS):
            table.refresh()
            abandoned = [entry for entry in abandoned if not _throw_away(table, *entry)]
            snapshot = table.snapshot()
            old = [] if is_held(table) and not data_change else list(plan(snapshot))
            if not old:
                return None
            number = (table.transaction(maintenance_app(table)) or 0) + 1
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
        "Other maintenance of the table always came first", where=table.name, remedy="Let it end, then try again."
    )


def unavailable(table: Table, error: Exception) -> VitaLakeError:
    """Return what to say when storage fails a rewrite."""
    return explained(table.storage, error, "Table cannot be rewritten")


def _stage(
    table: Table, rows: Rows, transform: Transform, attempt: _Attempt, counted: Counted | None, *, row_preserving: bool
) -> list[StagedFile]:
    """Write the new files; one that fails deletes what it wrote, for nobody has heard of it yet."""
    new: list[StagedFile] = []
    try:
        stage_all(table, transform(rows), stem=attempt.stem, into=new, counted=counted)
        after = sum(file.rows for file in new)
        if row_preserving and rows.count != after:
            raise LakeError(
                f"A rewrite would make {after} rows of {rows.count}",
                where=f"{table.name}@{attempt.planned_on}",
                remedy="Nothing was committed. Run 'vitalake lake verify'.",
            )
    except BaseException:
        for file in new:
            table.storage.delete(file.path)
        raise
    return new


def read_file(table: Table, file: StagedFile, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a file's rows, batch by batch; text stays in dictionaries, which is a fraction of the memory.

    By default all columns of the table, also those that only a newer release knows: our compaction must not lose them.

    Raises:
        Damaged: it does not hold what was written to it, or is gone.
        FileNotFoundError: it was replaced, and is gone: look again.
    """
    try:
        source = table.storage.open_input(file.path)  # what has rotted must not get a digest of its own
    except FileNotFoundError as error:
        raise table.lost_file() or error from None
    schema = table.state.columns
    schema = pa.schema([schema.field(name) for name in columns]) if columns else schema
    encoded = [name for name in repeating(table.dataset) if name in schema.names]
    with source:
        footer = pq.read_metadata(source)
        there = [name for name in schema.names if name in footer.schema.names]
        texts = [name for name in encoded if name in there]  # a file of before may lack one
        reader = pq.ParquetFile(source, read_dictionary=texts, metadata=footer, page_checksum_verification=True)
        for batch in reader.iter_batches(batch_size=BATCH_ROWS, columns=there):
            yield _encoded(conform(pa.Table.from_batches([batch]), schema), encoded)


def _encoded(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the rows with dictionaries also where a file of before has none."""
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
    """Commit; return whether it is committed, the reply lost or not. False: the plan is not good any more."""
    table.refresh()

    def transactions() -> dict[str, int]:
        numbers = {maintenance_app(table): attempt.number}
        if lost:
            gone = sum(file.rows for file in old) - sum(file.rows for file in new)
            numbers[lost_app(table)] = (table.transaction(lost_app(table)) or 0) + gone
        return numbers | (row_change(table, old, new) if data_change else {})

    def is_good() -> bool:
        number = (table.transaction(maintenance_app(table)) or 0) + 1
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
    """Replace files in one commit as soon as no append comes between; return False when ``is_good`` says no.

    Args:
        table: the object is asked as it is, just refreshed.
        old: removed.
        new: added.
        stem: names this very commit in the log, so that a lost reply is recognised.
        since: a version older than any try.
        transactions: what to commit with, on the object as it is.
        is_good: whether the plan holds, on the object as it is; must fail for ever once it was committed.
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
    raise ServiceUnavailable("Table is contended", where=table.name, remedy="Try again in a quieter hour.")


def row_change(table: Table, old: Sequence[StagedFile], new: Sequence[StagedFile]) -> dict[str, int]:
    """Return the transaction that records how many rows more or less a table holds than spans have added."""
    change = sum(file.rows for file in new) - sum(file.rows for file in old)
    return {rows_app(table): (table.transaction(rows_app(table)) or 0) + change}


def is_in_log(table: Table, stem: str, *, since: int) -> bool:
    """Whether files of this stem were committed after a version.

    The snapshot would not tell: its files may be there, or have been replaced again already.
    """
    name = stem.encode()
    for version in range(since + 1, table.delta.version() + 1):
        with table.storage.fs.open_input_file(f"{table.storage.root}/_delta_log/{version:020}.json") as entry:
            if name in entry.read():
                return True
    return False


def _throw_away(table: Table, attempt: _Attempt, files: list[StagedFile], seen_version: int) -> bool:
    """Delete the files of an attempt that failed, if it cannot become a commit any more; return whether it is done.

    On object storage the request of a failed commit may still be under way, for the version after the newest one we
    saw at most. Once that version is somebody's and not ours, it is dead; until then the files are the sweeper's.
    """
    under_way = not table.storage.local and table.delta.version() <= seen_version
    if under_way or is_in_log(table, attempt.stem, since=attempt.planned_on):
        return False
    for file in files:
        table.storage.delete(file.path)
    return True
