"""Taking rows out of a table for good: out of its newest version, and out of the files that only older ones name.

A patient's rows are looked for in the patient column alone, and only in files of the patient's bucket and in those
without buckets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitalake.failpoints import failpoint
from vitalake.lake.maintenance.compaction import TARGET_ROWS
from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite, unavailable
from vitalake.lake.tables.buckets import bucket_of, may_hold, patient_column
from vitalake.lake.tables.digests import check_content
from vitalake.lake.tables.staging import Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

Value = str | bytes

COMMIT_ROWS = 4_000_000
"""Rows of the files that are written anew in one commit."""


@dataclass(slots=True)
class Dropped:
    """What it took to drop rows.

    Attributes:
        table: which.
        rows: dropped.
        days: that had any.
        files_searched: whose one column was read.
        bytes_searched: of that one column, and of the footers.
        files_rewritten: that had such rows, and were read as a whole.
        bytes_rewritten: of those.
        bytes_written: of the new files in their place.
        files_deleted: for whoever purges after it.
    """

    table: str
    rows: int = 0
    days: int = 0
    files_searched: int = 0
    bytes_searched: int = 0
    files_rewritten: int = 0
    bytes_rewritten: int = 0
    bytes_written: int = 0
    files_deleted: int = 0

    @property
    def bytes_touched(self) -> int:
        """Return all bytes that were read or written."""
        return self.bytes_searched + self.bytes_rewritten + self.bytes_written


def drop_rows(
    table: Table,
    column: str,
    value: Value,
    *,
    commit_rows: int = COMMIT_ROWS,
    progress: Callable[[str], None] | None = None,
    instead: Callable[[pa.Table], pa.Table] | None = None,
) -> Dropped:
    """Rewrite every file that has rows with this value without them. Repeating it changes nothing.

    Days go together, for a commit each would be what takes the time; but no more than COMMIT_ROWS, for whoever loses to
    other maintenance has to do them again.

    What is added later is not looked at: raise the fence and settle first, so that nobody can add any. It goes on
    beside a swap that is prepared, which then has to start anew.

    Args:
        table: not to be used by anything else meanwhile.
        column: of text or binary; by the patient column it takes a file of each bucket.
        value: whose rows go.
        commit_rows: rows of the files of one commit, a day at the least.
        progress: told the days before they are rewritten.
        instead: makes of the rows what stays of them, without the value; default: nothing stays.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``; days that are done stay done.
    """
    done = Dropped(table.name)
    replaced = 0

    def keep(batch: pa.Table) -> pa.Table:
        nonlocal replaced
        has = has_value(batch[column].combine_chunks(), {value})
        kept = batch.filter(pc.invert(has))
        if instead is None or not has.true_count:
            return kept
        replaced += has.true_count
        return pa.concat_tables([kept, instead(batch.filter(has))])

    def without(rows: Rows) -> Iterator[Piece]:
        nonlocal replaced
        replaced = 0  # an attempt that was overtaken does not count
        return remaining_rows(rows, keep)

    finder = _Finder(table, column, value, done)
    table.refresh()
    for days in _together(finder.holders(table.snapshot().files.values()), commit_rows):
        if progress:
            progress(f"{days[0]} … {days[-1]}" if len(days) > 1 else str(days[0] or table.name))

        def plan(snapshot: Snapshot, days: Collection[str | None] = frozenset(days)) -> Sequence[StagedFile]:
            return finder.holders(file for file in snapshot.files.values() if file.day in days)

        result = rewrite(table, plan, without, data_change=True)
        failpoint("dropped-day")
        if result:
            done.days += len(days)
            done.rows += result.rows_before - result.rows + replaced
            done.files_rewritten += len(result.removed)
            done.bytes_rewritten += sum(file.size for file in result.removed)
            done.bytes_written += sum(file.size for file in result.added)
    return done


def _together(files: Sequence[StagedFile], most: int) -> Iterator[list[str | None]]:
    """Yield the days of these files, so many together as have that many rows at the most."""
    rows: Counter[str | None] = Counter()
    for file in files:
        rows[file.day] += file.rows
    held: list[str | None] = []
    for day in sorted(rows, key=str):
        if held and sum(rows[other] for other in held) + rows[day] > most:
            yield held
            held = []
        held.append(day)
    if held:
        yield held


def purge(table: Table, column: str, value: Value) -> int:
    """Delete every file of the table's folder that its newest version does not have and that holds the value.

    Those are files that were replaced and wait for the vacuum, so that older versions cannot be read any more where
    they had the value; and files that were staged and never added. Settle first, and drop the rows: what is decided
    and not added yet would be lost. What is half written is the sweeper's: nobody can tell what is in it.

    Returns:
        How many files were deleted.

    Raises:
        OSError, DeltaError: storage refuses.
    """
    by_name = column == patient_column(table.dataset)
    listed = table.storage.files(suffix="")
    table.refresh()  # after the listing: what was added between is in the newest version
    deleted = 0
    for path in sorted(listed.keys() - table.snapshot().files.keys()):
        if by_name and not may_hold(path, value):
            continue
        held = _held(table, path, column, value)
        if held and held[0]:
            table.storage.delete(path)
            deleted += 1
    return deleted


def distinct_values(table: Table, column: str) -> set[Value]:
    """Return the values of a column of text or binary in the table's newest version, and in all older ones."""
    table.refresh()
    values: set[Value] = set()
    for path in table.snapshot().files.keys() | table.storage.files().keys():
        with suppress(pa.ArrowException, FileNotFoundError):  # half written, or gone meanwhile
            with table.storage.fs.open_input_file(f"{table.storage.root}/{path}") as source:
                reader = pq.ParquetFile(source, read_dictionary=[column], page_checksum_verification=True)
                for batch in reader.iter_batches(columns=[column]):
                    encoded = batch.column(0)
                    values.update(
                        (encoded if _is_encoded(encoded) else encoded.dictionary_encode()).dictionary.to_pylist()
                    )
    return values - {None}


class _Finder:
    """Finds the files that hold a value; each file is looked into once."""

    def __init__(self, table: Table, column: str, value: Value, done: Dropped) -> None:
        self._table, self._column, self._value, self._done = table, column, value, done
        self._by_name = column == patient_column(table.dataset)
        self._known: dict[str, bool] = {}

    def holders(self, files: Collection[StagedFile] | Iterator[StagedFile]) -> list[StagedFile]:
        """Return those of the files that hold the value."""
        return sorted((file for file in files if self._holds(file)), key=lambda file: file.path)

    def _holds(self, file: StagedFile) -> bool:
        if self._by_name and not may_hold(file.path, self._value):
            return False
        if file.path not in self._known:
            held = _held(self._table, file.path, self._column, self._value)
            if held is None:
                self._explain(file)
                raise unavailable(self._table, OSError())
            self._known[file.path], size = held
            self._done.files_searched += 1
            self._done.bytes_searched += size
        return self._known[file.path]

    def _explain(self, file: StagedFile) -> None:
        """Raise what is wrong with a file that cannot be read, if it is the file itself."""
        try:
            check_content(self._table.storage, file.path)
            self._table.storage.open(file.path).close()
        except FileNotFoundError as error:
            raise self._table.lost_file() or error from None


def _held(table: Table, path: str, column: str, value: Value) -> tuple[bool, int] | None:
    """Return whether a file holds a value in a column, and how many bytes were read for it; None: cannot be told."""
    try:
        with table.storage.fs.open_input_file(f"{table.storage.root}/{path}") as source:
            reader = pq.ParquetFile(source, read_dictionary=[column], page_checksum_verification=True)
            if column not in reader.schema_arrow.names:
                return False, 0
            size = _column_bytes(reader, column)
            batches = reader.iter_batches(columns=[column])
            # In the dictionary, used or not: what no row has any more must not stand in the file either.
            return any(value in _values(batch.column(0)) for batch in batches), size
    except (pa.ArrowException, OSError):
        return None


def _column_bytes(reader: pq.ParquetFile, column: str) -> int:
    place = reader.schema_arrow.names.index(column)
    meta = reader.metadata
    chunks = sum(meta.row_group(i).column(place).total_compressed_size for i in range(meta.num_row_groups))
    return int(chunks + meta.serialized_size)


def _values(column: pa.Array) -> list[Value | None]:
    encoded = column if _is_encoded(column) else column.dictionary_encode()
    values: list[Value | None] = encoded.dictionary.to_pylist()
    return values


def has_value(column: pa.Array, values: Collection[Value]) -> pa.BooleanArray:
    """Return for each row whether it has one of the values; a null has none."""
    encoded = column if _is_encoded(column) else column.dictionary_encode()
    known = pc.is_in(encoded.dictionary, value_set=pa.array(list(values), encoded.dictionary.type))
    return known.take(encoded.indices).fill_null(False)


def _is_encoded(column: pa.Array) -> bool:
    return bool(pa.types.is_dictionary(column.type))


def remaining_rows(rows: Rows, keep: Callable[[pa.Table], pa.Table]) -> Iterator[Piece]:
    """Yield what remains of each file's rows, in a new file of the same bucket; nothing for a file that becomes empty.

    Args:
        rows: of the files to be rewritten.
        keep: makes of a batch of rows what remains of it.
    """
    for file in rows.files:
        parts: list[pa.Table] = []
        for batch in read_file(rows.table, file):
            part = keep(batch)
            if sum(other.num_rows for other in parts) + part.num_rows > TARGET_ROWS:
                yield Piece(pa.concat_tables(parts), bucket_of(file.path))
                parts = []
            parts.append(part)
        if any(part.num_rows for part in parts):
            yield Piece(pa.concat_tables(parts), bucket_of(file.path))
