"""Plays the attacker who knows all clear identifiers and looks for anything published that stands in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
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

_OF_ROWS: dict[str, Callable[[list[float]], Any]] = {"": np.mean, ", greatest": np.max, ", least": np.min}
"""By what of a patient's rows patients are put in an order."""


def suspicions(table: Table, column: str, numbers: Mapping[str, int]) -> dict[str, float]:
    """Return what can be ranked of a published table → how likely its rank correlation with the identifiers is chance.

    That is the share of permutations of the identifiers under which *anything* of the table ranks with them as well.

    Args:
        table: of published rows.
        column: of pseudonyms.
        numbers: pseudonym → its place among the sorted clear identifiers.
    """
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for what, patients, values in _looks(table, column):
        for patient, value in zip(patients, values, strict=True):
            if patient in numbers and value is not None:
                seen[what][patient].append(value)
    return _by_chance(seen, numbers)


def differences(tables: Iterable[Table], column: str, numbers: Mapping[str, int]) -> dict[str, float]:
    """Return what lies between two times, or versions, of a patient's rows → as ``suspicions``.

    Of one row, of two of a table, and of rows of two tables: noise that two of them share falls out of it.

    Args:
        tables: of published rows, with the column.
        column: of pseudonyms.
        numbers: pseudonym → its place among the sorted clear identifiers.
    """
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for table in tables:
        ranking = [c.name for c in table.dataset.columns if pa.types.is_timestamp(c.type) or c.counts]
        rows = table.delta.to_pyarrow_table(columns=[column, *ranking])
        for name in ranking:
            for patient, value in zip(rows[column].to_pylist(), rows[name].cast(pa.int64()).to_pylist(), strict=True):
                if patient in numbers and value is not None:
                    found[f"{table.dataset.name}.{name}"][patient].append(value)
    seen: dict[str, dict[str, list[float]]] = {}
    for (one, of_one), (other, of_other) in combinations_with_replacement(found.items(), 2):
        between = {p: _between(of_one[p], of_other[p], same=one == other) for p in of_one.keys() & of_other.keys()}
        seen[f"{one} minus {other}"] = {patient: gaps for patient, gaps in between.items() if gaps}
    return _by_chance(seen, numbers)


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


def _between(ones: list[int], others: list[int], *, same: bool) -> list[float]:
    """Return the differences of numbers that can share noise; of one column how far apart its rows are."""
    gaps = np.subtract.outer(np.array(ones), np.array(others))
    gaps = np.abs(gaps[np.triu_indices(len(ones), 1)]) if same else gaps.ravel()
    within = NEAR_US if max(ones + others) < BEHIND else BEHIND
    return [float(gap) for gap in gaps if abs(gap) < within]


def _by_chance(seen: Mapping[str, Mapping[str, list[float]]], numbers: Mapping[str, int]) -> dict[str, float]:
    whose = sorted({patient for found in seen.values() for patient in found})
    looks = {
        f"{what}{which}": _standard([float(look(found.get(p, [np.nan]))) for p in whose])
        for what, found in seen.items()
        for which, look in _OF_ROWS.items()
        if not which or any(len(values) > 1 for values in found.values())
    }
    looks = {what: ranks for what, ranks in looks.items() if ranks.any()}
    if not looks:
        return {}
    matrix, mine = np.array(list(looks.values())), _standard([numbers[patient] for patient in whose])
    chance = np.random.default_rng(1)
    shuffled = np.array([chance.permutation(mine) for _ in range(PERMUTATIONS)])
    best = np.abs(matrix @ shuffled.T).max(axis=0)
    above = [int((best >= r - 1e-9).sum()) for r in np.abs(matrix @ mine)]
    return {what: (1 + count) / (1 + PERMUTATIONS) for what, count in zip(looks, above, strict=True)}


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


def _standard(values: list[float] | list[int]) -> Floats:
    """Return ranks, of mean 0 and length 1; what is not known, and what is all the same, is 0."""
    array = np.array(values, np.float64)
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
