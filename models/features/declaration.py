"""Feature sets: the columns of a task's vector, declared in YAML, with labels and units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from vitalake import declarations
from vitalake.clinical.records import code_number
from vitalake.declarations import END
from vitalake.errors import SettingsError
from vitalake.vocabulary import load_vocabulary

StatisticName = Literal["last", "first", "min", "max", "mean", "sum", "slope", "count", "hours_since"]
STATISTICS: tuple[StatisticName, ...] = get_args(StatisticName)
PERSON = ("age", "sex_female", "hours_observed")
"""Columns that every vector has, after the items' columns and before the derived ones."""

UNUSED = 255
"""The index of codes that belong to no item; so a set has at most 255 items."""

_STATISTIC = rf"({'|'.join(STATISTICS)})(?:_([1-9]\d{{0,3}})h)?"
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
    """What is computed from an item's values; ``hours`` is a window shorter than the task's; None: the task's."""

    name: StatisticName
    hours: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A measured item: LOINC codes with the same meaning and unit, and the statistics to compute."""

    name: str
    label: str
    unit: str
    codes: tuple[str, ...]
    statistics: tuple[Statistic, ...]

    @property
    def every_code(self) -> tuple[str, ...]:
        """Return its codes and those that the vocabulary counts as one of them."""
        vocabulary = load_vocabulary()
        return tuple(dict.fromkeys(near for code in self.codes for near in vocabulary.with_near_codes(code)))


@dataclass(frozen=True, slots=True)
class Derived:
    """A column computed from two others: ``factor`` × first ÷ second."""

    name: str
    label: str
    unit: str
    ratio: tuple[str, str]
    factor: float


class ItemForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an item is declared.

    Attributes:
        label: for people.
        unit: UCUM; it must be the unit in which the vocabulary publishes the codes.
        codes: LOINC codes with the same meaning.
        statistics: such as ``mean`` over the task's window, or ``mean_6h`` over a shorter one.
    """

    label: str
    unit: str
    codes: Annotated[list[str], Meta(min_length=1)]
    statistics: Annotated[list[Annotated[str, Meta(pattern=f"^{_STATISTIC}{END}")]], Meta(min_length=1)]


class DerivedForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a derived column is declared: ``factor`` × the first column of ``ratio`` ÷ the second."""

    label: str
    unit: str
    ratio: tuple[str, str]
    factor: float = 1


class FeaturesForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How features are declared: items and derived columns by name; see ItemForm and DerivedForm."""

    items: Annotated[dict[str, Any], Meta(min_length=1, max_length=UNUSED)]
    derived: dict[str, Any] = {}


@dataclass(frozen=True)
class FeatureSet:
    """The columns of a task's vector, in order: statistics of items, PERSON, derived columns."""

    items: tuple[Item, ...]
    derived: tuple[Derived, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the columns' names, such as ``heart_rate.mean_6h``."""
        columns = [f"{item.name}.{_suffix(s)}" for item in self.items for s in item.statistics]
        return (*columns, *PERSON, *(d.name for d in self.derived))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the columns' labels for people."""
        columns = [f"{item.label}, {_words(s)}" for item in self.items for s in item.statistics]
        return (*columns, "Age", "Female sex", "Hours observed", *(d.label for d in self.derived))

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Return the columns' UCUM units."""
        columns = [_unit(item.unit, s) for item in self.items for s in item.statistics]
        return (*columns, "a", "", "h", *(d.unit for d in self.derived))

    @cached_property
    def hours(self) -> tuple[int | None, ...]:
        """Return the windows of the statistics, the task's own (None) first."""
        named = {s.hours for item in self.items for s in item.statistics if s.hours is not None}
        return (None, *sorted(named))

    @cached_property
    def item_of_code(self) -> npt.NDArray[np.uint8]:
        """Return an array from a code's number to the index of its item; its last entry is UNUSED.

        A table look-up takes a tenth of the time of a binary search. LOINC numbers end near a million, so it needs
        about a megabyte.
        """
        numbers = [(code_number(code), i) for i, item in enumerate(self.items) for code in item.every_code]
        table = np.full(max(number for number, _ in numbers) + 2, UNUSED, np.uint8)
        for number, i in numbers:
            table[number] = i
        return table

    @cached_property
    def least(self) -> npt.NDArray[np.float64]:
        """Return by an item's index the smallest real value; a reading below it is an event, see Vocabulary.least."""
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
        """Return for each statistic its cells (window × items + item), and the columns that they fill."""
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
        """Return the indexes of the two columns of each derived column, and its factor."""
        return tuple((self.names.index(d.ratio[0]), self.names.index(d.ratio[1]), d.factor) for d in self.derived)


def parse_features(document: Any, *, where: str, text: str = "", at: Sequence[str | int] = ()) -> FeatureSet:
    """Return the feature set that a YAML document declares.

    Args:
        document: the part of the YAML that declares the features.
        where: the file, for errors.
        text: of the whole file; empty: errors name no line.
        at: keys on the way from the whole document to this part.

    Raises:
        SettingsError: a field is missing or unknown, or contradicts another; the error names file and line.
    """

    def refuse(what: str, remedy: str, *inside: str | int) -> SettingsError:
        return declarations.refused(what, where=where, text=text, at=(*at, *inside), remedy=remedy)

    convert, entries = declarations.convert, declarations.entries
    form = convert(document, FeaturesForm, where=where, text=text, at=at)
    forms = entries(form.items, ItemForm, where=where, text=text, at=(*at, "items"))
    ratios = entries(form.derived, DerivedForm, where=where, text=text, at=(*at, "derived"))
    vocabulary, seen = load_vocabulary(), set[str]()
    for kind, names in (("items", forms), ("derived", ratios)):
        for name in names:
            if not declarations.NAME.fullmatch(name):
                raise refuse("Name is not valid", "Use lower-case letters, digits and _.", kind, name)
    for name, item in forms.items():
        for i, code in enumerate(item.codes):
            if code in seen:
                raise refuse("Code is listed twice among the items", "Remove it once.", "items", name, "codes", i)
            if code not in vocabulary.codes:
                raise refuse(
                    "Code is not in the vocabulary",
                    "Use a LOINC code from docs/reference/vocabulary.md.",
                    *("items", name, "codes", i),
                )
            unit = vocabulary.unit_of[vocabulary.codes[code]]
            if unit != item.unit:
                raise refuse("Item has another unit than its codes", f"Use the unit {unit}.", "items", name, "unit")
            seen.add(code)
        if len(set(item.statistics)) < len(item.statistics):
            raise refuse("Statistic is listed twice", "Remove it once.", "items", name, "statistics")
    items = tuple(
        Item(name, item.label, item.unit, tuple(item.codes), tuple(map(_statistic, item.statistics)))
        for name, item in forms.items()
    )
    derived = tuple(Derived(name, d.label, d.unit, d.ratio, d.factor) for name, d in ratios.items())
    found = FeatureSet(_with_equivalent_codes(items), derived)
    columns = set(FeatureSet(items).names)
    for one in derived:
        if not columns.issuperset(one.ratio) or one.name in columns:
            raise refuse(
                "Ratio does not name two columns of items, or has the name of one",
                "Name two columns as item.statistic, and give the ratio a name of its own.",
                *("derived", one.name),
            )
    return found


def _with_equivalent_codes(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return items with the codes that count as theirs added, such as an invasive pressure to a pressure."""
    named = {code for item in items for code in item.codes}
    near = load_vocabulary().with_near_codes
    return tuple(
        replace(item, codes=tuple(c for code in item.codes for c in near(code) if c == code or c not in named))
        for item in items
    )


def _statistic(text: str) -> Statistic:
    match = re.fullmatch(_STATISTIC, text)
    assert match is not None  # ItemForm has checked the pattern
    return Statistic(cast(StatisticName, match[1]), int(match[2]) if match[2] else None)


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
