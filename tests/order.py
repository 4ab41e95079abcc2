"""Plays the attacker who knows all clear identifiers and looks for anything published that stands in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations_with_replacement
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vitalake.lake.tables.table import Table
from vitalake.lake.unlinkable.record_versions import BEHIND

PERMUTATIONS = 2_000
PLACINGS = 1_000
NEAR_US = 7_200_000_000
"""Two times that are further apart are of two days, and share nothing."""

Floats = npt.NDArray[np.float64]

_Found = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]
"""Whose, by the patient's place, and what."""


def suspicions(table: Table, column: str, numbers: Mapping[str, int]) -> dict[str, float]:
    """Return what can be ranked of a published table → how likely its rank correlation with the identifiers is chance.

    That is the share of permutations of the identifiers under which *anything* of the table ranks with them as well.

    Args:
        table: of published rows.
        column: of pseudonyms.
        numbers: pseudonym → its place among the sorted clear identifiers.
    """
    seen: dict[str, list[_Found]] = defaultdict(list)
    for what, patients, values in _looks(table, column):
        seen[what].append(_found(patients, values, numbers))
    return _by_chance({what: _joined(parts) for what, parts in seen.items()}, numbers)


def differences(tables: Iterable[Table], column: str, numbers: Mapping[str, int]) -> dict[str, float]:
    """Return what lies between two times, or versions, of a patient's rows → as ``suspicions``.

    Of one row, of two of a table, and of rows of two tables: noise that two of them share falls out of it.

    Args:
        tables: of published rows, with the column.
        column: of pseudonyms.
        numbers: pseudonym → its place among the sorted clear identifiers.
    """
    found: dict[str, _Found] = {}
    for table in tables:
        ranking = [c.name for c in table.dataset.columns if pa.types.is_timestamp(c.type) or c.counts]
        rows = table.delta.to_pyarrow_table(columns=[column, *ranking])
        patients = rows[column].to_pylist()
        for name in ranking:
            values = rows[name].cast(pa.int64()).to_pylist()
            found[f"{table.dataset.name}.{name}"] = _found(patients, values, numbers, np.int64)
    pairs = combinations_with_replacement(found.items(), 2)
    seen = {f"{one} minus {other}": _between(ones, others, same=one == other) for (one, ones), (other, others) in pairs}
    return _by_chance(seen, numbers)


def _found(
    patients: Iterable[Any], values: Iterable[Any], numbers: Mapping[str, int], kind: type = np.float64
) -> _Found:
    """Return whose a value is, by the patient's place among the sorted pseudonyms, and the value; in that order."""
    place = {patient: number for number, patient in enumerate(sorted(numbers))}
    known = [
        (place[patient], value)
        for patient, value in zip(patients, values, strict=True)
        if patient in place and value is not None
    ]
    return _joined([(np.array([p for p, _ in known], np.int64), np.array([value for _, value in known], kind))])


def _joined(parts: list[_Found]) -> _Found:
    whose, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(whose, kind="stable")
    return whose[order], values[order]


def shared_places(table: Table, column: str, places: Mapping[str, int]) -> dict[str, float]:
    """Return what rows of a published table share → how likely it is by chance that their patients share a place too.

    Args:
        table: of published rows.
        column: of pseudonyms.
        places: pseudonym → where a clear identifier puts its messages: its partition.
    """
    count, chance, found = max(places.values()) + 1, np.random.default_rng(2), {}
    number, where = {patient: i for i, patient in enumerate(places)}, np.array([*places.values()])
    for what, patients, values in _shares(table, column, count):
        mine = {(number[p], str(value)) for p, value in zip(patients, values, strict=True) if p in places}
        whose = np.array([patient for patient, _ in mine])
        same = np.unique([value for _, value in mine], return_inverse=True)[1] * count

        def pairs(
            where: npt.NDArray[np.int64],
            whose: npt.NDArray[np.int64] = whose,
            same: npt.NDArray[np.int64] = same,
        ) -> int:
            return int((np.bincount(same + where[whose]) ** 2).sum())

        true = pairs(where)
        found[what] = (1 + sum(pairs(chance.permutation(where)) >= true for _ in range(PLACINGS))) / (1 + PLACINGS)
    return found


def _shares(table: Table, column: str, count: int) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Yield whatever the rows of some patients have in common, and others have not: name, whose rows, what."""
    rows = []
    for path in sorted(table.snapshot().files):
        part = pq.read_table(f"{table.storage.root}/{path}", partitioning=None)
        name = path.rpartition("/")[2].partition(".e")[0]
        rows.append(part.append_column("file name", pa.array([name] * part.num_rows)))
    everything = pa.concat_tables(rows, promote_options="permissive")
    whose = everything[column].to_pylist()
    for field in everything.schema:
        values = everything[field.name].to_pylist()
        if field.name != column:
            yield field.name, whose, values
        if pa.types.is_integer(field.type):
            yield f"{field.name} mod {count}", whose, [None if value is None else value % count for value in values]


def _between(ones: _Found, others: _Found, *, same: bool) -> _Found:
    """Return the differences of numbers that can share noise; of one column how far apart its rows are."""
    (whose, left), (of_other, right) = ones, others
    first, last = np.searchsorted(of_other, whose, "left"), np.searchsorted(of_other, whose, "right")
    if same:
        first = np.arange(1, len(whose) + 1)  # each two rows once
    count = last - first
    mine = np.repeat(np.arange(len(whose)), count)
    theirs = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    gaps = left[mine] - right[theirs]
    greatest = np.maximum(_most(ones)[whose[mine]], _most(others)[whose[mine]])
    within = np.abs(gaps) < np.where(greatest < BEHIND, NEAR_US, BEHIND)
    return whose[mine][within], (np.abs(gaps) if same else gaps)[within].astype(np.float64)


def _most(found: _Found) -> npt.NDArray[np.int64]:
    """Return the greatest number of each patient, by the patient's place."""
    most = np.zeros(int(found[0].max(initial=-1)) + 1, np.int64)
    np.maximum.at(most, *found)
    return most


def _by_chance(seen: Mapping[str, _Found], numbers: Mapping[str, int]) -> dict[str, float]:
    present = np.unique(np.concatenate([whose for whose, _ in seen.values()]))
    looks = {
        f"{what}{which}": ranks
        for what, (whose, values) in seen.items()
        for which, each in _of_rows(whose, values, len(numbers)).items()
        if (ranks := _standard(each[present])).any()
    }
    if not looks:
        return {}
    of_patient = [numbers[patient] for patient in sorted(numbers)]
    matrix, mine = np.array(list(looks.values())), _standard(np.array(of_patient, np.float64)[present])
    chance = np.random.default_rng(1)
    shuffled = np.array([chance.permutation(mine) for _ in range(PERMUTATIONS)])
    best = np.abs(matrix @ shuffled.T).max(axis=0)
    above = [int((best >= r - 1e-9).sum()) for r in np.abs(matrix @ mine)]
    return {what: (1 + count) / (1 + PERMUTATIONS) for what, count in zip(looks, above, strict=True)}


def _of_rows(whose: npt.NDArray[np.int64], values: Floats, patients: int) -> dict[str, Floats]:
    """Return by what of a patient's rows patients are put in an order: name → a number of each; nan: there is none."""
    counts = np.bincount(whose, minlength=patients)
    greatest, least = np.full(patients, -np.inf), np.full(patients, np.inf)
    np.maximum.at(greatest, whose, values)
    np.minimum.at(least, whose, values)
    means = np.bincount(whose, values, patients) / np.where(counts, counts, np.nan)
    found = {"": means, ", greatest": greatest, ", least": least} if (counts > 1).any() else {"": means}
    return {which: np.where(counts, each, np.nan) for which, each in found.items()}


def _looks(table: Table, column: str) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Yield everything by which an attacker could put rows in an order: name, whose rows, numbers or None."""
    files = sorted(table.snapshot().files)
    logged = {path: place for place, path in enumerate(_in_the_log(table)) if path in files}
    rows: list[pa.Table] = []
    texts = [field.name for field in table.dataset.schema if field.type == pa.string()]
    for number, path in enumerate(files):
        part = pq.read_table(f"{table.storage.root}/{path}", partitioning=None, read_dictionary=texts)
        whose, lines = part[column].to_pylist(), list(range(part.num_rows))
        yield "row of the file", whose, [line / part.num_rows for line in lines]
        yield "place in the log", whose, [logged[path] * 1e7 + line for line in lines]
        yield "place among the files' names", whose, [number * 1e7 + line for line in lines]
        for name in [name for name in texts if name in part.schema.names]:
            indices = part[name].combine_chunks().indices
            yield f"place in the dictionary of {name}", whose, indices.to_pylist()
        rows.append(part)
    everything = pa.concat_tables(rows, promote_options="permissive")
    whose = everything[column].to_pylist()
    for name in everything.schema.names:
        values = everything[name].to_pylist()
        place = {value: number for number, value in enumerate(sorted({v for v in values if v is not None}))}
        yield f"column {name}", whose, [place.get(value) for value in values]


def _in_the_log(table: Table) -> list[str]:
    """Return the files that were ever added, in the order in which the log says so."""
    found: list[str] = []
    for version in range(table.delta.version() + 1):
        with table.storage.fs.open_input_file(f"{table.storage.root}/_delta_log/{version:020}.json") as entry:
            actions = [msgspec.json.decode(line) for line in entry.read().splitlines()]
        found += [unquote(action["add"]["path"]) for action in actions if "add" in action]
    return found


def _standard(array: Floats) -> Floats:
    """Return ranks, of mean 0 and length 1; what is not known, and what is all the same, is 0."""
    known = ~np.isnan(array)
    ranks = np.zeros(len(array))
    order, index = np.unique(array[known], return_inverse=True)
    if len(order) < 2:
        return ranks
    counts = np.bincount(index)
    ranks[known] = (np.cumsum(counts) - (counts + 1) / 2)[index]
    ranks[known] -= ranks[known].mean()
    length = np.linalg.norm(ranks)
    return ranks / length if length else ranks
