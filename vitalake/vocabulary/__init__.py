"""The vocabulary: codes with unit and plausible range, what becomes that unit, scales' answers, systems of codes."""

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
"""Stands among the units for *none was told*, which is right for numbers without a dimension only."""
TRUTHS = frozenset({"true", "false"})
"""How valueBoolean is written as a coded value."""


@dataclass(frozen=True)
class Answers:
    """The answers of a scale whose values are codes.

    Attributes:
        score: ``<system>|<code>`` → the answer's place on the scale, the best one 0.
        words: an answer in words, folded → its code.
    """

    score: dict[str, int]
    words: dict[str, str]

    def said(self, text: str) -> str | None:
        """Return the code of an answer in words or by its letter; None for other words."""
        return self.words.get(" ".join(text.split()).casefold())


@dataclass(frozen=True)
class Vocabulary:
    """Codes and units as arrays, so that a batch is looked up at once.

    Attributes:
        codes: LOINC code → index; panels are not among them.
        units: UCUM code, or another spelling that is one word for one word → index, of all that a sender may use.
        unit_of: index → the UCUM unit the code is published in.
        names: index → name.
        sources: index → where the range comes from.
        low, high: index → plausible range in that unit.
        least: index → the lowest value that is taken; below ``low`` it is an event and no measurement of a living
            body: an arrest, or a probe, line or cuff that came off, and must be seen.
        zero_counts: index → whether 0 is taken, too, though it lies below the range. The last one stands for what is
            unknown.
        factor, offset: [code, unit] → how to convert; NaN where the unit does not fit the code. The last row and the
            last column stand for what is unknown.
        folded: spelling, see ``fold`` → index of the unit.
        counts_as: LOINC code → the more general code that it is a case of, in the same unit: the invasive systolic
            pressure is a systolic pressure. Rows keep the code that was sent.
        answers: LOINC code → its answers, of codes that are answered and not measured.
        panels: LOINC codes of panels.
        systems: code system → the form its codes have.
        absent_system, absent_codes: why a value may be absent.
        local: name of a local code system of the home → the form of its codes.
        mapped: ``<system>|<code>`` of a local system → what it is taken as.
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
        """Return the index of the unit of values without one."""
        return self.units[NO_UNIT]

    def unit_index(self, text: str | None) -> int:
        """Return the index of a unit as somebody wrote it; -1 for one that is not known.

        UCUM's codes count letter by letter; only what is none of them may differ in case, blanks and signs.
        """
        if not text:
            return -1
        found = self.units.get(text, -1)
        return found if found >= 0 else self.folded.get(fold(text), -1)

    def plausible(self, code: npt.NDArray[np.int64], value: Floats) -> npt.NDArray[np.bool_]:
        """Return whether values, by the index of their codes, are taken; of an index of no code it says nothing."""
        inside: npt.NDArray[np.bool_] = (value >= self.least[code]) & (value <= self.high[code])
        return inside | (self.zero_counts[code] & (value == 0))

    def begins_at(self, code: str) -> float:
        """Return the lowest value of a code that is a measurement; what is taken below it is an event."""
        return float(self.low[self.codes[code]])

    def converts(self, code: str, unit: str) -> bool:
        """Return whether values of a code may come in a unit."""
        return not np.isnan(self.factor[self.codes[code], self.unit_index(unit)])

    def alike(self, code: str) -> tuple[str, ...]:
        """Return a code and those that count as it; their values mean the same in the same unit."""
        return (code, *(other for other, general in self.counts_as.items() if general == code))

    def knows(self, coded: str) -> bool:
        """Return whether ``<system>|<code>`` is a code, not words that somebody wrote into its place."""
        system, _, code = coded.rpartition("|")
        form = self.systems.get(system)
        return coded in TRUTHS or (form is not None and form.fits(code))

    def loinc_of(self, code: str) -> str:
        """Return the LOINC code that ``<system>|<code>`` of a local system is taken as; any other text as it is."""
        found = self.mapped.get(code)
        return code if found is None else found.loinc

    def chosen(self, loinc: str | None, codings: Iterable[str]) -> str | None:
        """Return the coding that counts of several; None: LOINC is not among them, nor a local system of the home.

        Args:
            loinc: the LOINC code; None where there is none. It counts unless it is not known and another one is.
            codings: all as ``<system>|<code>``, in the sender's order; one that is mapped counts before others.
        """
        own = [coding for coding in codings if coding.rpartition("|")[0] in self.local] if self.local else []
        first = next((coding for coding in own if coding in self.mapped), None)
        if loinc is not None:
            return loinc if loinc in self.codes or first is None else first
        return first or next(iter(own), None)

    def is_of_local(self, coded: str) -> bool:
        """Return whether ``<system>|<code>`` is a code of a local system by its form: then it may be shown."""
        system, _, code = coded.rpartition("|")
        form = self.local.get(system)
        return form is not None and form.fits(code)

    def absent_reason(self, coded: str) -> str:
        """Return the code for why a value is absent, of ``<system>|<code>``; ``other`` for one that is not listed."""
        system, _, code = coded.rpartition("|")
        return code if system in ("", self.absent_system) and code in self.absent_codes else "other"


def parse_vocabulary(codes: dict[str, Any], units: dict[str, Any], systems: dict[str, Any]) -> Vocabulary:
    """Return the vocabulary that three documents declare.

    Raises:
        SettingsError: an entry is missing a field or contradicts another.
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
        raise SettingsError("Vocabulary does not hold", where="vitalake/vocabulary", remedy="Mend the entry.") from None
    _check(vocabulary)
    return vocabulary


def _unit_index(named: list[str], families: dict[str, Any], spellings: dict[str, Any]) -> dict[str, int]:
    """Return an index for each unit; a further spelling has that of its unit."""
    every = [*named, *(str(unit) for family in families.values() for unit in family), NO_UNIT]
    index = {unit: i for i, unit in enumerate(dict.fromkeys(every))}
    for unit, several in spellings.items():
        for text in several:
            if index.setdefault(str(text), index[str(unit)]) != index[str(unit)]:
                raise ValueError(text)
    return index


def _answers(scale: list[dict[str, Any]]) -> Answers:
    score = {str(code): i for i, answer in enumerate(scale) for code in answer["codes"]}
    words = {str(text).casefold(): str(answer["codes"][0]) for answer in scale for text in answer["words"]}
    return Answers(score, words | {code.rpartition("|")[2].casefold(): code for code in score})


def _check(vocabulary: Vocabulary) -> None:
    index = vocabulary.codes
    near = [
        general not in index or general in vocabulary.counts_as
        or vocabulary.unit_of[index[code]] != vocabulary.unit_of[index[general]]
        for code, general in vocabulary.counts_as.items()
    ]  # fmt: skip
    ranges = (vocabulary.low < vocabulary.high) & (vocabulary.least <= vocabulary.low)
    if not ranges.all() or set(vocabulary.panels) & set(index) or any(near):
        raise SettingsError("Vocabulary contradicts itself", where="vitalake/vocabulary", remedy="Check the ranges.")


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
    """Return the vocabulary that ships with the project, with what the home in use declares.

    Raises:
        SettingsError: the home's vocabulary does not hold; names file, line and field.
    """
    files = own_files()
    if not files:
        return shipped_vocabulary()
    return with_home(_shipped(), shipped_vocabulary(), files, parse_vocabulary)
