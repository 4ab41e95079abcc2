"""Which of the rows that the broker gives stood in which damaged file: no row is taken that could be another file's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.commits.spans import Part, Span
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.maintenance.vacuum import span_id_of
from vitalake.lake.tables.table import NO_DAY, StagedFile, Table

PLACE = ("source", "source_position", "observation_id", "version", "status", "code")
"""What tells the restricted rows of a dataset apart without opening them, as far as it has these columns."""


@dataclass(slots=True)
class Republishable:
    """What can be made again.

    Attributes:
        files: damaged files of which every row is there.
        rows: of those files.
        given: path → of the other files, what the messages give of them, in words.
    """

    files: list[StagedFile]
    rows: pa.Table
    given: dict[str, str]


def made_again(table: Table, rows: pa.Table, damaged: Sequence[StagedFile], decided: Sequence[Span]) -> Republishable:
    """Return the damaged files that rows of the broker's messages make whole: as many as are missing, not one more.

    A file that a span has staged has the rows of its messages; files that were merged are told apart by their day only.

    Args:
        table: restricted.
        rows: made again; of more days and spans than are missing.
        damaged: every damaged file of the table.
        decided: all spans.
    """
    rows = _not_there(table, rows, damaged)
    days, spans = _days(rows, table.dataset), {span.span_id: span for span in decided}
    taken = np.zeros(rows.num_rows, np.bool_)
    groups: list[tuple[list[StagedFile], npt.NDArray[np.bool_]]] = []
    merged = defaultdict[str | None, list[StagedFile]](list)
    for file in damaged:
        span = spans.get(span_id_of(file.path))
        if span is None:
            merged[file.day].append(file)
            continue
        mine = _of_span(rows, span.parts) & (days == (file.day or ""))
        taken |= mine
        groups.append(([file], mine))
    groups += [(files, ~taken & (days == (day or ""))) for day, files in merged.items()]
    again, chosen = Republishable([], rows, {}), np.zeros(rows.num_rows, np.bool_)
    for files, mine in groups:
        count, wanted = int(mine.sum()), sum(file.rows for file in files)
        if count == wanted:
            again.files += files
            chosen |= mine
        else:
            again.given |= dict.fromkeys((file.path for file in files), _uneven(count, wanted))
    again.rows = rows.filter(pa.array(chosen))
    return again


def _uneven(count: int, wanted: int) -> str:
    return (
        f"the broker's messages give {count:,} rows of {wanted:,}: rules, associations or decoders have changed since, "
        "or a look-back has left out other repeats"
    )


def _not_there(table: Table, rows: pa.Table, damaged: Sequence[StagedFile]) -> pa.Table:
    """Return the rows that no sound file of the damaged files' days has."""
    days, gone = {file.day for file in damaged}, {file.path for file in damaged}
    names = [name for name in PLACE if name in table.dataset.schema.names]
    schema = pa.schema([rows.schema.field(name) for name in names])
    sound = [file for file in table.snapshot().files.values() if file.day in days and file.path not in gone]
    known = {
        place
        for file in sound
        for part in read_file(table, file, columns=names)
        for place in places(part.cast(schema), names)
    }
    return rows.filter(pa.array([place not in known for place in places(rows, names)], pa.bool_()))


def _of_span(rows: pa.Table, parts: Iterable[Part]) -> npt.NDArray[np.bool_]:
    positions = rows["source_position"].to_numpy()
    found = np.zeros(rows.num_rows, np.bool_)
    for part in parts:
        here = pc.fill_null(pc.equal(rows["source"], str(part.id)), False).to_numpy()
        found |= here & (positions >= part.first) & (positions < part.end)
    return found


def _days(rows: pa.Table, dataset: Dataset) -> npt.NDArray[np.object_]:
    """Return the day of each row, empty where it has none."""
    if dataset.day_of is None:
        return np.full(rows.num_rows, "", np.object_)
    dates = pc.cast(pc.cast(rows[dataset.day_of], pa.date32()), pa.string())
    return np.array(pc.fill_null(dates, "").to_pylist(), np.object_)


def of_day(rows: pa.Table, dataset: Dataset, day: str | None) -> pa.Table:
    """Return the rows of a day; of a dataset without days all of them."""
    return rows if dataset.day_of is None else rows.filter(pa.array(_days(rows, dataset) == (day or "")))


def places(rows: pa.Table, names: Sequence[str]) -> list[tuple[object, ...]]:
    """Return of each row what tells it apart from others."""
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def day_of(path: str) -> str | None:
    """Return the day of a file, by its folder."""
    day = path.partition("/")[0].removeprefix("day=") if "/" in path else NO_DAY
    return None if day == NO_DAY else day
