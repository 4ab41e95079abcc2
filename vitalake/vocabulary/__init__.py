"""The vocabulary: codes with unit and plausible range, conversions of units, answers of scales, and code systems."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from vitalake.declarations import per_home
from vitalake.errors import SettingsError
from vitalake.strict_yaml import read_yaml
from vitalake.vocabulary.conversions import conversions
from vitalake.vocabulary.entries import LocalCode
from vitalake.vocabulary.forms import Form, form_of
from vitalake.vocabulary.home import own_files
from vitalake.vocabulary.merging import with_home
from vitalake.vocabulary.spelling import fold, folded

Floats = npt.NDArray[np.float64]

FILES = ("codes", "units", "systems")
NO_UNIT = ""
"""Stands among the units for a value that came without a unit, which is valid only for dimensionless codes."""
TRUTHS = frozenset({"true", "false"})
"""How valueBoolean is written as a coded value."""


@dataclass(frozen=True)
class Answers:
    """The answers of a scale whose values are codes.

    Attributes:
        score: ``<system>|<code>`` → place of the answer on the scale; the best answer is 0.
        words: words of an answer in lower case → its code.
    """

    score: dict[str, int]
    words: dict[str, str]

    def code_of(self, text: str) -> str | None:
        """Return the code of an answer that is given in words or by its letter; None: no answer has these words."""
        return self.words.get(" ".join(text.split()).casefold())


@dataclass(frozen=True)
class Vocabulary:
    """Codes and units as arrays, so that a whole batch can be looked up at once.

    Attributes:
        codes: LOINC code → index of the code; without panels.
        units: UCUM code, or another exact spelling → index of the unit; all units that a sender may use.
        unit_of: index of the code → UCUM unit in which the code is published.
        names: index of the code → name.
        sources: index of the code → source of the range.
        low, high: index of the code → plausible range in that unit.
        least: index of the code → lowest value that is accepted. A value below ``low`` is an event and not a
            measurement of a living body: an arrest, or a probe, line or cuff that came off. It must be shown.
        zero_counts: index of the code → whether 0 is accepted, although it is below the range. The last entry stands
            for unknown codes.
        factor, offset: [code, unit] → how to convert; NaN where the unit does not fit the code. The last row and the
            last column stand for unknown codes and units.
        folded: spelling as ``fold`` returns it → index of the unit.
        counts_as: LOINC code → the more general code that it is a case of, in the same unit: an invasive systolic
            pressure is a systolic pressure. Rows keep the code that was sent.
        answers: LOINC code → its answers; only codes that are answered, not measured.
        panels: LOINC code of a panel → name.
        systems: code system → form of its codes.
        absent_system, absent_codes: the code system, and its codes, for why a value is absent.
        local: name of a local code system of the home → form of its codes.
        mapped: ``<system>|<code>`` of a local system → the LOINC code, with unit, that it is mapped to.
    """

    codes: dict[str, int]
    units: dict[str, int]
    unit_of: tuple[str, ...]
    names: tuple[str, ...]
    sources: tuple[str, ...]
    low: Floats
    high: Floats
    least: Floats
    zero_counts: npt.NDArray[np.bool_]
    factor: Floats
    offset: Floats
    folded: dict[str, int]
    counts_as: dict[str, str]
    answers: dict[str, Answers]
    panels: dict[str, str]
    systems: dict[str, Form]
    absent_system: str
    absent_codes: frozenset[str]
    local: dict[str, Form] = field(default_factory=dict)
    mapped: dict[str, LocalCode] = field(default_factory=dict)

    @property
    def no_unit(self) -> int:
        """Return the index that stands for values without a unit."""
        return self.units[NO_UNIT]

    def unit_index(self, text: str | None) -> int:
        """Return the index of a unit as a sender wrote it; -1: the unit is not known.

        An exact spelling, such as UCUM's, comes first. Only a text that is not one may differ in case, blanks and
        signs: UCUM's codes are case-sensitive.
        """
        if not text:
            return -1
        found = self.units.get(text, -1)
        return found if found >= 0 else self.folded.get(fold(text), -1)

    def plausible(self, code: npt.NDArray[np.int64], value: Floats) -> npt.NDArray[np.bool_]:
        """Return whether each value is accepted for its code.

        Args:
            code: index of each value's code; for an index of an unknown code the result has no meaning.
            value: the values, in the unit of their code.
        """
        inside: npt.NDArray[np.bool_] = (value >= self.least[code]) & (value <= self.high[code])
        return inside | (self.zero_counts[code] & (value == 0))

    def lowest_measurement(self, code: str) -> float:
        """Return the lowest value of a code that is a measurement; an accepted value below it is an event."""
        return float(self.low[self.codes[code]])

    def converts(self, code: str, unit: str) -> bool:
        """Return whether values of a code may come in a unit."""
        return not np.isnan(self.factor[self.codes[code], self.unit_index(unit)])

    def with_near_codes(self, code: str) -> tuple[str, ...]:
        """Return a code and its near codes, those that count as it; all have the same meaning and unit."""
        return (code, *(other for other, general in self.counts_as.items() if general == code))

    def is_known_code(self, coded: str) -> bool:
        """Return whether ``<system>|<code>`` has the form of a known system's codes; else it may be free text."""
        system, _, code = coded.rpartition("|")
        form = self.systems.get(system)
        return coded in TRUTHS or (form is not None and form.fits(code))

    def loinc_of(self, code: str) -> str:
        """Return the LOINC code that ``<system>|<code>`` of a local system is mapped to; any other text unchanged."""
        local = self.mapped.get(code)
        return code if local is None else local.loinc

    def choose_coding(self, loinc: str | None, codings: Iterable[str]) -> str | None:
        """Return which of several codings to use; None: none is of LOINC or of a local system of the home.

        A LOINC code is used, unless it is not known and a local code is mapped. Of local codes a mapped one comes
        first.

        Args:
            loinc: the LOINC code; None: there is none.
            codings: all codings as ``<system>|<code>``, in the sender's order.
        """
        own = [coding for coding in codings if coding.rpartition("|")[0] in self.local] if self.local else []
        first = next((coding for coding in own if coding in self.mapped), None)
        if loinc is not None:
            return loinc if loinc in self.codes or first is None else first
        return first or next(iter(own), None)

    def is_local_code(self, coded: str) -> bool:
        """Return whether ``<system>|<code>`` has the form of a local system's codes: then it may be shown."""
        system, _, code = coded.rpartition("|")
        form = self.local.get(system)
        return form is not None and form.fits(code)

    def absent_reason(self, coded: str) -> str:
        """Return the code for why a value is absent, from ``<system>|<code>``; ``other`` if it is not listed."""
        system, _, code = coded.rpartition("|")
        return code if system in ("", self.absent_system) and code in self.absent_codes else "other"


def parse_vocabulary(codes: dict[str, Any], units: dict[str, Any], systems: dict[str, Any]) -> Vocabulary:
    """Build the vocabulary from its three documents.

    Raises:
        SettingsError: an entry lacks a field, or contradicts another entry.
    """
    try:
        entries: dict[str, dict[str, Any]] = codes["codes"]
        unit_of = tuple(str(entry["unit"]) for entry in entries.values())
        spellings = units.get("spellings", {})
        known = _unit_index([*unit_of, *(str(u["from"]) for u in units["units"])], units.get("families", {}), spellings)
        factor, offset = conversions(entries, known, units)
        low, high = (np.array([float(e[side]) for e in entries.values()]) for side in ("low", "high"))
        forms = {str(system): form_of(entry) for system, entry in systems["systems"].items()}
        vocabulary = Vocabulary(
            codes={code: i for i, code in enumerate(entries)},
            units=known,
            unit_of=unit_of,
            names=tuple(str(e["name"]) for e in entries.values()),
            sources=tuple(str(e["source"]) for e in entries.values()),
            low=low,
            high=high,
            least=np.array([float(e.get("least", e["low"])) for e in entries.values()]),
            zero_counts=np.array([*(e.get("zero") == "counts" for e in entries.values()), False]),
            factor=factor,
            offset=offset,
            folded=folded({text: i for text, i in known.items() if text != NO_UNIT}),
            counts_as={code: str(e["as"]) for code, e in entries.items() if "as" in e},
            answers={code: _answers(codes["scales"][e["scale"]]) for code, e in entries.items() if "scale" in e},
            panels=dict(codes["panels"]),
            systems=forms,
            absent_system=str(systems["absent"]["system"]),
            absent_codes=frozenset(map(str, systems["absent"]["codes"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, re.error):
        raise SettingsError(
            "Vocabulary is not valid",
            where="vitalake/vocabulary",
            remedy="An entry lacks a field, or a unit has two meanings: correct the last change.",
        ) from None
    _check(vocabulary)
    return vocabulary


def _unit_index(named: list[str], families: dict[str, Any], spellings: dict[str, Any]) -> dict[str, int]:
    """Return an index for each unit; further spellings have the index of their unit.

    Raises:
        ValueError: one spelling stands for two units.
    """
    every = [*named, *(str(unit) for family in families.values() for unit in family), NO_UNIT]
    index = {unit: i for i, unit in enumerate(dict.fromkeys(every))}
    for unit, several in spellings.items():
        for text in several:
            if index.setdefault(str(text), index[str(unit)]) != index[str(unit)]:
                raise ValueError(text)
    return index


def _answers(scale: list[dict[str, Any]]) -> Answers:
    """Return the answers of a scale, which its document lists from best to worst."""
    score = {str(code): i for i, answer in enumerate(scale) for code in answer["codes"]}
    words = {str(text).casefold(): str(answer["codes"][0]) for answer in scale for text in answer["words"]}
    return Answers(score, words | {code.rpartition("|")[2].casefold(): code for code in score})


def _check(vocabulary: Vocabulary) -> None:
    """Refuse ranges without width, panels that are codes, and near codes that do not fit their general code."""
    index = vocabulary.codes
    misfits = [
        general not in index or general in vocabulary.counts_as
        or vocabulary.unit_of[index[code]] != vocabulary.unit_of[index[general]]
        for code, general in vocabulary.counts_as.items()
    ]  # fmt: skip
    ranges = (vocabulary.low < vocabulary.high) & (vocabulary.least <= vocabulary.low)
    if not ranges.all() or set(vocabulary.panels) & set(index) or any(misfits):
        raise SettingsError(
            "Vocabulary contradicts itself",
            where="vitalake/vocabulary/codes.yaml",
            remedy="Check the ranges, the codes of panels, and 'as' of the near codes.",
        )


@cache
def _shipped() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    folder = resources.files(__package__)
    codes, units, systems = (read_yaml((folder / f"{name}.yaml").read_text()) for name in FILES)
    return codes, units, systems


@cache
def shipped_vocabulary() -> Vocabulary:
    """Return the vocabulary that ships with the project."""
    return parse_vocabulary(*_shipped())


@per_home
def load_vocabulary() -> Vocabulary:
    """Return the vocabulary that ships with the project, with the additions of the home in use.

    Raises:
        SettingsError: the home's vocabulary is not valid; names file, line and field.
    """
    files = own_files()
    if not files:
        return shipped_vocabulary()
    return with_home(_shipped(), shipped_vocabulary(), files, parse_vocabulary)
