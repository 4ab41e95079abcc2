"""What a feature set is: the columns of a task's vector, declared in YAML, with names for people and units."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vitalake.clinical.records import code_number
from vitalake.errors import SettingsError
from vitalake.vocabulary import load_vocabulary

StatisticName = Literal["last", "first", "min", "max", "mean", "sum", "slope", "count", "hours_since"]
STATISTICS: tuple[StatisticName, ...] = get_args(StatisticName)
PERSON = ("age", "sex_female", "hours_observed")
"""Columns that every vector ends with, in front of the derived ones."""

UNUSED = 255
"""Index of codes that no item names; so a set has at most 255 items."""

_STATISTIC = re.compile(r"([a-z_]+?)(?:_(\d+)h)?")
_WORDS: dict[StatisticName, str] = {
    "last": "latest",
    "first": "first",
    "min": "lowest",
    "max": "highest",
    "mean": "mean",
    "sum": "total",
    "slope": "change per hour",
    "count": "number of values",
    "hours_since": "hours since the latest",
}


@dataclass(frozen=True, slots=True)
class Statistic:
    """What is computed of an item's values; ``hours`` is a shorter window than the task's, None: the task's."""

    name: StatisticName
    hours: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """Something measured: LOINC codes that mean the same in one unit, and the statistics wanted of it."""

    name: str
    label: str
    unit: str
    codes: tuple[str, ...]
    statistics: tuple[Statistic, ...]

    @property
    def every_code(self) -> tuple[str, ...]:
        """Return its codes and those that count as one of them in the vocabulary."""
        vocabulary = load_vocabulary()
        return tuple(dict.fromkeys(near for code in self.codes for near in vocabulary.alike(code)))


@dataclass(frozen=True, slots=True)
class Derived:
    """A column computed of two others: ``factor`` × first ÷ second."""

    name: str
    label: str
    unit: str
    ratio: tuple[str, str]
    factor: float


@dataclass(frozen=True)
class FeatureSet:
    """The columns of a task's vector, in order: items' statistics, person, derived."""

    items: tuple[Item, ...]
    derived: tuple[Derived, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the columns' names, such as ``heart_rate.mean_6h``."""
        columns = [f"{item.name}.{_suffix(s)}" for item in self.items for s in item.statistics]
        return (*columns, *PERSON, *(d.name for d in self.derived))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return what the columns are called before people."""
        columns = [f"{item.label}, {_words(s)}" for item in self.items for s in item.statistics]
        return (*columns, "Age", "Female sex", "Hours observed", *(d.label for d in self.derived))

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Return the columns' UCUM units."""
        columns = [_unit(item.unit, s) for item in self.items for s in item.statistics]
        return (*columns, "a", "", "h", *(d.unit for d in self.derived))

    @cached_property
    def hours(self) -> tuple[int | None, ...]:
        """Return the windows that statistics name, the task's own (None) first."""
        named = {s.hours for item in self.items for s in item.statistics if s.hours is not None}
        return (None, *sorted(named))

    @cached_property
    def item_of_code(self) -> npt.NDArray[np.uint8]:
        """Return an array that gives, by a code's number, the index of its item; its last entry is UNUSED.

        A table look-up takes a tenth of a binary search; LOINC numbers end near a million, so it is a megabyte.
        """
        numbers = [(code_number(code), i) for i, item in enumerate(self.items) for code in item.every_code]
        table = np.full(max(number for number, _ in numbers) + 2, UNUSED, np.uint8)
        for number, i in numbers:
            table[number] = i
        return table

    @cached_property
    def least(self) -> npt.NDArray[np.float64]:
        """Return by an item's index from where on a value is one, and below it an event: see Vocabulary.least."""
        vocabulary = load_vocabulary()
        found = np.full(UNUSED + 1, -np.inf)
        for i, item in enumerate(self.items):
            known = [vocabulary.codes[code] for code in item.codes if code in vocabulary.codes]
            event = vocabulary.zero_counts[known] | (vocabulary.least[known] < vocabulary.low[known])
            if event.any():
                found[i] = vocabulary.low[known].min()
        return found

    @cached_property
    def sources(self) -> tuple[tuple[StatisticName, npt.NDArray[np.intp], npt.NDArray[np.intp]], ...]:
        """Return for each statistic the cells (window × items + item) it takes, and the columns they go to."""
        cells: dict[StatisticName, list[tuple[int, int]]] = {}
        column = 0
        for i, item in enumerate(self.items):
            for statistic in item.statistics:
                cell = self.hours.index(statistic.hours) * len(self.items) + i
                cells.setdefault(statistic.name, []).append((cell, column))
                column += 1
        return tuple(
            (name, np.array([c for c, _ in pairs], np.intp), np.array([c for _, c in pairs], np.intp))
            for name, pairs in cells.items()
        )

    @cached_property
    def ratios(self) -> tuple[tuple[int, int, float], ...]:
        """Return the columns of each derived one, and its factor."""
        return tuple((self.names.index(d.ratio[0]), self.names.index(d.ratio[1]), d.factor) for d in self.derived)


def parse_features(document: Any, *, where: str) -> FeatureSet:
    """Return the feature set that a YAML document declares.

    Raises:
        SettingsError: a field is missing, unknown or contradicts another.
    """
    try:
        items = tuple(_item(name, entry) for name, entry in document["items"].items())
        derived = tuple(
            Derived(name, entry["label"], entry["unit"], (entry["ratio"][0], entry["ratio"][1]), entry.get("factor", 1))
            for name, entry in document.get("derived", {}).items()
        )
        items = _with_cases(items)
        found = FeatureSet(items, derived)
        codes = [code for item in items for code in item.codes]
        if not items or len(items) > UNUSED or len(set(codes)) < len(codes) or len(set(found.names)) < len(found.names):
            raise ValueError
        _ = found.ratios, found.item_of_code
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise SettingsError(
            "Features are not declared as they should be",
            where=where,
            remedy="Compare with models/tasks/mortality.yaml.",
        ) from None
    return found


def _item(name: str, entry: dict[str, Any]) -> Item:
    if set(entry) != {"label", "unit", "codes", "statistics"}:
        raise ValueError
    return Item(
        name, entry["label"], entry["unit"], tuple(entry["codes"]), tuple(_statistic(t) for t in entry["statistics"])
    )


def _with_cases(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return items with the codes that count as theirs, as an invasive pressure does as a pressure."""
    named = {code for item in items for code in item.codes}
    alike = load_vocabulary().alike
    return tuple(
        replace(item, codes=tuple(c for code in item.codes for c in alike(code) if c == code or c not in named))
        for item in items
    )


def _statistic(text: str) -> Statistic:
    match = _STATISTIC.fullmatch(text)
    if match is None or match[1] not in STATISTICS:
        raise ValueError
    return Statistic(match[1], int(match[2]) if match[2] else None)


def _suffix(statistic: Statistic) -> str:
    return statistic.name if statistic.hours is None else f"{statistic.name}_{statistic.hours}h"


def _words(statistic: Statistic) -> str:
    words = _WORDS[statistic.name]
    return words if statistic.hours is None else f"{words} in {statistic.hours} h"


def _unit(unit: str, statistic: Statistic) -> str:
    if statistic.name == "hours_since":
        return "h"
    if statistic.name == "count":
        return ""
    return f"{unit}/h" if statistic.name == "slope" else unit
