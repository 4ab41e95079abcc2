"""Open messages: the rows of a quarantine table for which there is no resolution yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitalake.causes import unavailable
from vitalake.errors import LakeError
from vitalake.lake.commits.lake import Lake
from vitalake.lake.tables.schema import conform
from vitalake.lake.tables.table import StagedFile, Table

RESOLUTION = "quarantine/resolution"
DEAD_LETTER = "quarantine/dead_letter"

BATCH_MESSAGES = 5_000
BATCH_BYTES = 32 << 20
"""Limits of a batch, in messages and in bytes of payload: while it is worked on, it is in memory several times."""

ATTEMPTS = 3
"""How often a table is counted again when it is rewritten meanwhile."""

_READ_ROWS = 256
"""Rows read at a time: by default a message has at most a megabyte."""

PLACE = ("dataset", "source", "topic_id", "position")
"""The columns that identify a message of a quarantine table."""


class LettersMoved(LakeError):
    """The files that were being read are gone, because a rewrite replaced them."""

    transient = True


class Source(NamedTuple):
    """One partition of one incarnation of a topic, for one dataset."""

    dataset: str
    source: str
    topic_id: str

    @property
    def topic(self) -> str:
        """Return the topic's name."""
        return topic_of(self.source)


def topic_of(source: str) -> str:
    """Return the topic of ``topic[partition]``."""
    return source.rpartition("[")[0] or source


@dataclass(frozen=True, slots=True)
class Choice:
    """Selects messages; a message must match every field that is given.

    Attributes:
        reason: why they were rejected.
        source: ``topic[partition]``, or a topic.
        position: offset.
        sources: exact partitions; None takes all.
        device_keys: of which devices, in a table with that column; messages of several devices, which have no key
            there, are taken too. None takes all.
        since: the first day, ISO, of the table's files. None takes all.
    """

    reason: str | None = None
    source: str | None = None
    position: int | None = None
    sources: frozenset[Source] | None = None
    device_keys: frozenset[bytes] | None = None
    since: str | None = None

    def takes(self, source: Source) -> bool:
        """Return whether messages of a partition can match."""
        return self.source in (None, source.source, source.topic) and (self.sources is None or source in self.sources)


@dataclass(slots=True)
class Places:
    """A set of messages, kept as sorted positions per partition: eight bytes a message."""

    _sorted: dict[Source, npt.NDArray[np.int64]] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Add the places of rows."""
        for source, index in by_source(rows).items():
            positions = rows["position"].take(pa.array(index)).to_numpy()
            known = self._sorted.get(source, np.zeros(0, np.int64))
            self._sorted[source] = np.union1d(known, positions)

    def merge(self, other: Places) -> None:
        """Add the places of another set."""
        for source, positions in other._sorted.items():
            self._sorted[source] = np.union1d(self._sorted.get(source, np.zeros(0, np.int64)), positions)

    def hold(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Return for each row whether its place is in the set."""
        held = np.zeros(rows.num_rows, np.bool_)
        for source, index in by_source(rows).items():
            known = self._sorted.get(source)
            if known is not None:
                held[index] = np.isin(rows["position"].take(pa.array(index)).to_numpy(), known, kind="sort")
        return held

    def __len__(self) -> int:
        """Return the number of places."""
        return sum(map(len, self._sorted.values()))


def by_source(rows: pa.Table) -> dict[Source, npt.NDArray[np.int64]]:
    """Return the indices of the rows of each partition."""
    if not rows.num_rows:
        return {}
    names = ("dataset", "source", "topic_id")
    filled = [pc.fill_null(_texts(rows, name), "") for name in names]
    encoded = [column.combine_chunks().dictionary_encode() for column in filled]
    codes = np.stack([column.indices.to_numpy() for column in encoded])
    found, which = np.unique(codes, axis=1, return_inverse=True)
    which = which.reshape(-1)
    order = np.argsort(which, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
    texts = [column.dictionary.to_pylist() for column in encoded]
    sources = [Source(*(text[code] for text, code in zip(texts, column, strict=True))) for column in found.T]
    return dict(zip(sources, parts, strict=True))


def _texts(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.schema.names:
        return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
    return rows[name].cast(pa.string())


# -- what is resolved --------------------------------------------------------------------------------------------


def resolved(lake: Lake, table: str, *, outcome: str | None = None) -> Places:
    """Return the places of a quarantine table's messages that are resolved now, with this outcome or with any."""
    places = Places()
    for rows in _resolutions(lake, table, [*PLACE, "table", "outcome"]):
        places.add(rows if outcome is None else rows.filter(pc.equal(rows["outcome"].cast(pa.string()), outcome)))
    return places


def outcomes(lake: Lake, table: str) -> Counter[str]:
    """Return how many messages of a quarantine table were resolved, by outcome."""
    counts: Counter[str] = Counter()
    for rows in _resolutions(lake, table, ["table", "outcome"]):
        counts.update(rows["outcome"].to_pylist())
    return counts


def _resolutions(lake: Lake, table: str, columns: list[str]) -> Iterator[pa.Table]:
    if not lake.storage.holds_table(RESOLUTION):
        return
    resolution = lake.table(RESOLUTION)
    resolution.refresh()
    name = table.rpartition("/")[2]
    for file in _ordered(resolution):
        with _open(resolution, file) as reader:
            rows = reader.read(columns)
        yield rows.filter(pc.equal(rows["table"].cast(pa.string()), name))


def _ordered(table: Table, *, since: str | None = None) -> list[StagedFile]:
    """Return a table's files from a day on, the oldest day first."""
    files = [file for file in table.snapshot().files.values() if since is None or file.day is None or file.day >= since]
    return sorted(files, key=lambda file: (str(file.day), file.path))


# -- what is open ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Census:
    """How many messages a quarantine table has, and how many of these are open, by reason and partition.

    Attributes:
        total: messages of the table.
        open: messages of the choice that are not resolved.
        reasons: reason → open messages.
        sources: partition → open messages.
        decoders: partition → the decoder and version that rejected one of its open messages.
    """

    total: int = 0
    open: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    sources: Counter[Source] = field(default_factory=Counter)
    decoders: dict[Source, str] = field(default_factory=dict)


def census(lake: Lake, table: str, choice: Choice | None = None) -> Census:
    """Count the messages of a quarantine table; no payload is read.

    Raises:
        LettersMoved: the table was rewritten during every attempt.
        ServiceUnavailable: storage cannot be read.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(LettersMoved):
            return _census(lake, table, choice or Choice())
    return _census(lake, table, choice or Choice())


def _census(lake: Lake, table: str, choice: Choice) -> Census:
    found = Census()
    if not lake.storage.holds_table(table):
        return found
    done = resolved(lake, table)
    lake.table(table).refresh()
    for file in _ordered(lake.table(table), since=choice.since):
        rows = _places(lake.table(table), file)
        mask = _mask(rows, choice, done)
        found.total += rows.num_rows
        found.open += int(mask.sum())
        left = rows.filter(pa.array(mask))
        if "reason" in left.schema.names:
            found.reasons.update(left["reason"].to_pylist())
        for source, index in by_source(left).items():
            found.sources[source] += len(index)
            found.decoders[source] = str(left["decoder"][int(index[0])])
    return found


def open_places(lake: Lake, table: str, choice: Choice, *, done: Places) -> Iterator[pa.Table]:
    """Yield the places of open messages, file by file; no payload is read."""
    for file in _ordered(lake.table(table), since=choice.since) if lake.storage.holds_table(table) else ():
        rows = _places(lake.table(table), file)
        mask = _mask(rows, choice, done)
        if mask.any():
            yield rows.filter(pa.array(mask))


def open_letters(lake: Lake, table: str, choice: Choice, *, done: Places) -> Iterator[pa.Table]:
    """Yield open messages in batches, the oldest day first, in the order of their positions within a batch.

    Args:
        lake: its table is read as of its last refresh.
        table: ``quarantine/dead_letter``, or another table of envelopes.
        choice: which messages.
        done: messages that are resolved, or are to be skipped.

    Raises:
        LettersMoved: the table was rewritten meanwhile, and the replaced files were deleted.
        ServiceUnavailable: storage cannot be read.
    """
    if not lake.storage.holds_table(table):
        return
    batch: list[pa.Table] = []
    count = size = 0
    for rows in _letters(lake.table(table), choice, done):
        batch.append(rows)
        count, size = count + rows.num_rows, size + rows.nbytes
        if count >= BATCH_MESSAGES or size >= BATCH_BYTES:
            yield _in_order(batch)
            batch, count, size = [], 0, 0
    if batch:
        yield _in_order(batch)


def _letters(table: Table, choice: Choice, done: Places) -> Iterator[pa.Table]:
    for file in _ordered(table, since=choice.since):
        mask = _mask(_places(table, file), choice, done)
        if not mask.any():
            continue
        begin = 0
        with _open(table, file) as reader:
            for batch in reader.iter_batches(batch_size=_READ_ROWS, columns=table.dataset.schema.names):
                mine = mask[begin : begin + batch.num_rows]
                begin += batch.num_rows
                if mine.any():
                    yield conform(pa.Table.from_batches([batch]).filter(pa.array(mine)), table.dataset.schema)


def _places(table: Table, file: StagedFile) -> pa.Table:
    """Return the columns by which a file's messages are chosen."""
    with _open(table, file) as reader:
        there = [name for name in (*PLACE, "reason", "decoder", "device_key") if name in reader.schema_arrow.names]
        return reader.read(there)


@contextmanager
def _open(table: Table, file: StagedFile) -> Iterator[pq.ParquetFile]:
    try:
        with table.storage.open(file.path) as reader:
            yield reader
    except FileNotFoundError:
        if (gone := table.lost_file()) is not None:
            raise gone from None
        raise LettersMoved(
            "Table was rewritten while it was read", where=table.name, remedy="Run the command again."
        ) from None
    except OSError as error:
        raise unavailable(error, "Lake cannot be read", where=table.name, remedy="Check the lake's storage.") from None


def _mask(rows: pa.Table, choice: Choice, done: Places) -> npt.NDArray[np.bool_]:
    mask = np.ones(rows.num_rows, np.bool_)
    if choice.reason is not None:
        mask &= _equal(rows, "reason", choice.reason)
    if choice.position is not None:
        mask &= rows["position"].to_numpy() == choice.position
    if choice.device_keys is not None and "device_key" in rows.schema.names:
        wanted = pa.array(sorted(choice.device_keys), pa.binary())
        mask &= pc.or_(pc.is_in(rows["device_key"], wanted), pc.is_null(rows["device_key"])).to_numpy()
    for source, index in by_source(rows).items():
        if not choice.takes(source):
            mask[index] = False
    return mask & ~done.hold(rows)


def _equal(rows: pa.Table, name: str, text: str) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.fill_null(pc.equal(_texts(rows, name), text), False).to_numpy()
    return found


def _in_order(parts: Sequence[pa.Table]) -> pa.Table:
    rows = pa.concat_tables(parts)
    return rows.sort_by([("source", "ascending"), ("position", "ascending")])
