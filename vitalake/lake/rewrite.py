"""The one way in which rows that are in a table already are written anew: compaction, erasure, re-key, republish.

Two compactions from one stale snapshot would both commit and double the rows without an error; so would a removal of
a file that somebody else has replaced. Hence: plan on an object and commit with that very object, with a transaction
of the table's own that makes the second of two rewrites fail; after any failure look before trying again.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError, DeltaError

from vitalake.crashpoints import passing
from vitalake.errors import LakeError, ServiceUnavailable
from vitalake.lake.table import Snapshot, StagedFile, Table

_log = logging.getLogger(__name__)

ATTEMPTS = 5
"""A rewrite that loses to another maintenance so often in a row should wait for a quieter hour."""

BATCH_ROWS = 65_536
"""Rows read at a time: what the transform asks for is in memory, and one batch."""

Plan = Callable[[Snapshot], Sequence[StagedFile]]
"""Which files of a snapshot are to be replaced; none ends the rewrite. Asked again on every new snapshot."""

Transform = Callable[[Iterator[pa.Table]], Iterator[pa.Table]]
"""The rows of those files, in batches → the rows of one new file after the other."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a rewrite replaced by what."""

    removed: tuple[StagedFile, ...]
    added: tuple[StagedFile, ...]

    @property
    def rows(self) -> int:
        """Return how many rows the new files hold."""
        return sum(file.rows for file in self.added)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One try: the number of its transaction, the start of its files' names, the version it was planned on."""

    number: int
    stem: str
    planned_on: int


def maintenance_app(table: Table) -> str:
    """Return the name of the transaction that only rewrites of this table commit, counting up."""
    return f"maintenance/{table.name}"


def rewrite(table: Table, plan: Plan, transform: Transform, *, data_change: bool = False) -> Rewritten | None:
    """Replace files by what ``transform`` makes of their rows, in one commit; return None when nothing is planned.

    Args:
        table: not to be used by anything else meanwhile; readers and appends of other processes go on.
        plan: chooses the files, on each fresh snapshot.
        transform: gives back all rows, unless ``data_change``.
        data_change: whether rows are changed, dropped or added. Then appends beside it have to try again.

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
            old = list(plan(snapshot))
            if not old:
                return None
            number = (table.transaction(maintenance_app(table)) or 0) + 1
            attempt = _Attempt(number, f"rewrite.{number}.{uuid.uuid4().hex}", snapshot.version)
            new = _stage(table, old, transform, attempt, row_preserving=not data_change)
            passing("rewrite-staged")
            if _commit(table, old, new, attempt, data_change=data_change):
                passing("rewrite-committed")
                for entry in abandoned:
                    _throw_away(table, *entry)
                return Rewritten(tuple(old), tuple(new))
            abandoned.append((attempt, new, table.delta.version()))
    except (OSError, DeltaError) as error:
        raise ServiceUnavailable(
            f"Table cannot be rewritten ({type(error).__name__})",
            where=table.name,
            remedy="Check space and connection of the lake's storage, then start the maintenance again.",
        ) from None
    raise LakeError(
        "Other maintenance of the table always came first", where=table.name, remedy="Let it end, then try again."
    )


def _stage(
    table: Table, old: list[StagedFile], transform: Transform, attempt: _Attempt, *, row_preserving: bool
) -> list[StagedFile]:
    """Write the new files; one that fails deletes what it wrote, for nobody has heard of it yet."""
    new: list[StagedFile] = []
    try:
        for number, rows in enumerate(transform(_read(table, old))):
            new += table.stage(rows, stem=f"{attempt.stem}-{number}")
        before, after = sum(file.rows for file in old), sum(file.rows for file in new)
        if row_preserving and before != after:
            raise LakeError(
                f"A rewrite would make {after} rows of {before}",
                where=f"{table.name}@{attempt.planned_on}",
                remedy="Nothing was committed. Run 'vitalake lake verify'.",
            )
    except BaseException:
        for file in new:
            table.storage.delete(file.path)
        raise
    return new


def _read(table: Table, files: list[StagedFile]) -> Iterator[pa.Table]:
    """Yield the files' rows, batch by batch; text stays in dictionaries, which is a fraction of the memory."""
    names = table.dataset.schema.names
    texts = [column.name for column in table.dataset.columns if column.type == pa.string()]
    for file in files:
        with table.storage.fs.open_input_file(f"{table.storage.root}/{file.path}") as source:
            reader = pq.ParquetFile(source, read_dictionary=texts)
            for batch in reader.iter_batches(batch_size=BATCH_ROWS, columns=names):
                yield pa.Table.from_batches([batch]).select(names)


def _commit(
    table: Table, old: list[StagedFile], new: list[StagedFile], attempt: _Attempt, *, data_change: bool
) -> bool:
    """Commit with the object as it was planned on; return whether it is committed, the reply lost or not."""
    try:
        table.commit(
            add=new,
            remove=old,
            transactions={maintenance_app(table): attempt.number},
            data_change=data_change,
        )
    except (CommitFailedError, OSError, DeltaError) as error:
        table.refresh()
        if not _is_in_log(table, attempt):
            if not isinstance(error, CommitFailedError):
                raise
            _log.info("rewrite came second", extra={"table": table.name})
            return False
    table.refresh()
    return True


def _is_in_log(table: Table, attempt: _Attempt) -> bool:
    """Whether the attempt was committed since it was planned.

    The snapshot would not tell: its files may be there, or have been replaced again already.
    """
    name = attempt.stem.encode()
    for version in range(attempt.planned_on + 1, table.delta.version() + 1):
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
    if under_way or _is_in_log(table, attempt):
        return False
    for file in files:
        table.storage.delete(file.path)
    return True
