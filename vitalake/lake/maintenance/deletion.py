"""Deletes rows for good: from a table's newest version, and from the files that only older versions name.

A patient's rows are searched in the patient column alone, and only in files of the patient's bucket and in files
without a bucket.
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
from vitalake.grouping import groups, row_count
from vitalake.lake.maintenance.compaction import TARGET_ROWS
from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite, unavailable
from vitalake.lake.tables.buckets import bucket_of, may_hold, patient_column
from vitalake.lake.tables.digests import check_content
from vitalake.lake.tables.staging import Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

Value = str | bytes

MOST_READS = 10
"""How often a count begins again because a file was replaced while it was read."""

COMMIT_ROWS = 4_000_000
"""Rows of the files that are rewritten in one commit."""


@dataclass(slots=True)
class Dropped:
    """What was read, written and dropped.

    Attributes:
        table: the table's name.
        rows: rows dropped.
        days: days that had such rows.
        files_searched: files of which the one column was read.
        bytes_searched: bytes of that column, and of the footers.
        files_rewritten: files that had such rows, and were read as a whole.
        bytes_rewritten: bytes of those files.
        bytes_written: bytes of the new files in their place.
        files_deleted: set by a caller that purges afterwards.
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
        """Return the number of bytes that were read or written."""
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
    """Rewrite every file that has rows with this value, without these rows. Repeating it changes nothing.

    Several days share a commit, because a commit for each day would take most of the time. A commit has at most
    COMMIT_ROWS, because an attempt that loses to other maintenance has to be repeated.

    Rows that are added later are not searched: raise the fence and settle first, so that none can be. A replacement of
    the whole table that is being prepared does not stop this; that replacement then has to start again.

    Args:
        table: nothing else may use the object during the call.
        column: of text or binary; if it is the patient column, only files of the value's bucket are searched.
        value: rows with this value are dropped.
        commit_rows: rows of the files of one commit; it is at least one day.
        progress: called with the days before they are rewritten.
        instead: returns what remains of the rows, without the value; None: nothing remains.

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


def count_rows(table: Table, column: str, values: Collection[Value]) -> int:
    """Return how many rows of a table's newest version have one of these values in a column of text or binary.

    Raises:
        ServiceUnavailable: storage cannot be read.
    """
    by_name = column == patient_column(table.dataset)

    def count(file: StagedFile) -> int:
        if by_name and not any(may_hold(file.path, value) for value in values):
            return 0
        parts = read_file(table, file, columns=[column])
        return sum(has_value(part[column].combine_chunks(), values).true_count for part in parts)

    return over_newest(table, count)


def over_newest(table: Table, count: Callable[[StagedFile], int]) -> int:
    """Return the sum of a count over the files of a table's newest version, beside maintenance that replaces files.

    Raises:
        ServiceUnavailable: storage cannot be read, or files are replaced faster than they are read.
    """
    counts: dict[str, int] = {}
    for _ in range(MOST_READS):
        table.refresh()
        files = table.snapshot().files.values()
        with suppress(FileNotFoundError):  # replaced and deleted meanwhile: the newest version has another one
            for file in files:
                if file.path not in counts:
                    counts[file.path] = count(file)
            return sum(counts[file.path] for file in files)
    raise unavailable(table, OSError())


def _together(files: Sequence[StagedFile], most: int) -> Iterator[list[str | None]]:
    """Yield the days of these files in groups of at most ``most`` rows, or of one day."""
    rows: Counter[str | None] = Counter()
    for file in files:
        rows[file.day] += file.rows
    yield from groups(sorted(rows, key=str), (rows.__getitem__, most))


def purge(table: Table, column: str, value: Value) -> int:
    """Delete every file in the table's folder that holds the value and is not part of the newest version.

    Some of these files were replaced and wait for the vacuum; older versions that name them cannot be read any more.
    Others were staged and never added. Settle first, then drop the rows: files of spans that are decided and not added
    yet would be lost. A half-written file cannot be read; it is left to the sweeper.

    Returns:
        The number of deleted files.

    Raises:
        OSError, DeltaError: storage refuses.
    """
    by_name = column == patient_column(table.dataset)
    listed = table.storage.files(suffix="")
    table.refresh()  # after the listing: a file that was added in between is in the newest version
    deleted = 0
    for path in sorted(listed.keys() - table.snapshot().files.keys()):
        if by_name and not may_hold(path, value):
            continue
        found = _search_file(table, path, column, value)
        if found and found[0]:
            table.storage.delete(path)
            deleted += 1
    return deleted


def distinct_values(table: Table, column: str) -> set[Value]:
    """Return the values of a column of text or binary in the newest version and in all older ones."""
    table.refresh()
    values: set[Value] = set()
    for path in table.snapshot().files.keys() | table.storage.files().keys():
        with suppress(pa.ArrowException, FileNotFoundError):  # half written, or deleted since
            with table.storage.fs.open_input_file(f"{table.storage.root}/{path}") as source:
                reader = pq.ParquetFile(source, read_dictionary=[column], page_checksum_verification=True)
                for batch in reader.iter_batches(columns=[column]):
                    encoded = batch.column(0)
                    values.update(
                        (encoded if _is_encoded(encoded) else encoded.dictionary_encode()).dictionary.to_pylist()
                    )
    return values - {None}


class _Finder:
    """Finds the files that hold a value; each file is read once."""

    def __init__(self, table: Table, column: str, value: Value, done: Dropped) -> None:
        self._table, self._column, self._value, self._done = table, column, value, done
        self._by_name = column == patient_column(table.dataset)
        self._verdicts: dict[str, bool] = {}

    def holders(self, files: Collection[StagedFile] | Iterator[StagedFile]) -> list[StagedFile]:
        """Return the files among these that hold the value."""
        return sorted((file for file in files if self._holds(file)), key=lambda file: file.path)

    def _holds(self, file: StagedFile) -> bool:
        if self._by_name and not may_hold(file.path, self._value):
            return False
        if file.path not in self._verdicts:
            found = _search_file(self._table, file.path, self._column, self._value)
            if found is None:
                self._explain(file)
                raise unavailable(self._table, OSError())
            self._verdicts[file.path], size = found
            self._done.files_searched += 1
            self._done.bytes_searched += size
        return self._verdicts[file.path]

    def _explain(self, file: StagedFile) -> None:
        """Raise an error that names the cause, if a file cannot be read because it is damaged or lost."""
        try:
            check_content(self._table.storage, file.path)
            self._table.storage.open(file.path).close()
        except FileNotFoundError as error:
            raise self._table.lost_file() or error from None


def _search_file(table: Table, path: str, column: str, value: Value) -> tuple[bool, int] | None:
    """Return whether a file holds a value in a column, and the bytes read; None: the file cannot be read."""
    try:
        with table.storage.fs.open_input_file(f"{table.storage.root}/{path}") as source:
            reader = pq.ParquetFile(source, read_dictionary=[column], page_checksum_verification=True)
            if column not in reader.schema_arrow.names:
                return False, 0
            size = _column_bytes(reader, column)
            batches = reader.iter_batches(columns=[column])
            # A dictionary entry counts even if no row uses it: a deleted value must not be left anywhere in the file.
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
    """Return for each row whether it has one of the values; false for a null."""
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
        kept = (part for part in map(keep, read_file(rows.table, file)) if part.num_rows)
        for parts in groups(kept, (row_count, TARGET_ROWS)):
            yield Piece(pa.concat_tables(parts), bucket_of(file.path))
