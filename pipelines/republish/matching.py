"""Matches rows read again from the broker to damaged files; a row that could be another file's is not taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.commits.span import Part, Span
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.maintenance.vacuum import span_id_of
from vitalake.lake.tables.table import NO_DAY, StagedFile, Table

PLACE = ("source", "source_position", "observation_id", "version", "status", "code")
"""The columns that identify a restricted row of a dataset without decrypting it; a dataset has some of them."""


@dataclass(slots=True)
class Recoverable:
    """The damaged files whose rows can be written again.

    Attributes:
        files: damaged files of which every row was found.
        rows: the rows of those files.
        why_not: path of each other damaged file → why its rows cannot be used, in words.
    """

    files: list[StagedFile]
    rows: pa.Table
    why_not: dict[str, str]


def match_to_files(table: Table, rows: pa.Table, damaged: Sequence[StagedFile], decided: Sequence[Span]) -> Recoverable:
    """Return the damaged files that the rows complete: a file must get exactly as many rows as it had.

    A file that a span has staged has the rows of that span's messages. Of merged files only the day is known.

    Args:
        table: restricted.
        rows: rows read again; also of other days and spans than are missing.
        damaged: every damaged file of the table.
        decided: all spans.
    """
    rows = _not_in_sound_files(table, rows, damaged)
    days, spans = _days(rows, table.dataset), {span.span_id: span for span in decided}
    taken = np.zeros(rows.num_rows, np.bool_)
    groups: list[tuple[list[StagedFile], npt.NDArray[np.bool_]]] = []
    merged = defaultdict[str | None, list[StagedFile]](list)
    for file in damaged:
        span = spans.get(span_id_of(file.path))
        if span is None:
            merged[file.day].append(file)
            continue
        of_file = _of_span(rows, span.parts) & (days == (file.day or ""))
        taken |= of_file
        groups.append(([file], of_file))
    groups += [(files, ~taken & (days == (day or ""))) for day, files in merged.items()]
    result, chosen = Recoverable([], rows, {}), np.zeros(rows.num_rows, np.bool_)
    for files, of_files in groups:
        count, missing = int(of_files.sum()), sum(file.rows for file in files)
        if count == missing:
            result.files += files
            chosen |= of_files
        else:
            result.why_not |= dict.fromkeys((file.path for file in files), _other_count(count, missing))
    result.rows = rows.filter(pa.array(chosen))
    return result


def _other_count(count: int, missing: int) -> str:
    return (
        f"the broker's messages give {count:,} rows, and {missing:,} are missing: rules, associations or decoders have "
        "changed since, or the look-back has removed other duplicates"
    )


def _not_in_sound_files(table: Table, rows: pa.Table, damaged: Sequence[StagedFile]) -> pa.Table:
    """Return the rows that are in no undamaged file of the damaged files' days."""
    days, gone = {file.day for file in damaged}, {file.path for file in damaged}
    names = [name for name in PLACE if name in table.dataset.schema.names]
    schema = pa.schema([rows.schema.field(name) for name in names])
    sound = [file for file in table.snapshot().files.values() if file.day in days and file.path not in gone]
    stored = {
        place
        for file in sound
        for part in read_file(table, file, columns=names)
        for place in places(part.cast(schema), names)
    }
    return rows.filter(pa.array([place not in stored for place in places(rows, names)], pa.bool_()))


def _of_span(rows: pa.Table, parts: Iterable[Part]) -> npt.NDArray[np.bool_]:
    positions = rows["source_position"].to_numpy()
    found = np.zeros(rows.num_rows, np.bool_)
    for part in parts:
        here = pc.fill_null(pc.equal(rows["source"], str(part.id)), False).to_numpy()
        found |= here & (positions >= part.first) & (positions < part.end)
    return found


def _days(rows: pa.Table, dataset: Dataset) -> npt.NDArray[np.object_]:
    """Return the day of each row; an empty text if it has none."""
    if dataset.day_of is None:
        return np.full(rows.num_rows, "", np.object_)
    dates = pc.cast(pc.cast(rows[dataset.day_of], pa.date32()), pa.string())
    return np.array(pc.fill_null(dates, "").to_pylist(), np.object_)


def of_day(rows: pa.Table, dataset: Dataset, day: str | None) -> pa.Table:
    """Return the rows of a day, or all rows of a dataset without days."""
    return rows if dataset.day_of is None else rows.filter(pa.array(_days(rows, dataset) == (day or "")))


def places(rows: pa.Table, names: Sequence[str]) -> list[tuple[object, ...]]:
    """Return for each row the values that identify it."""
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def day_of(path: str) -> str | None:
    """Return the day of a file, by its folder."""
    day = path.partition("/")[0].removeprefix("day=") if "/" in path else NO_DAY
    return None if day == NO_DAY else day
