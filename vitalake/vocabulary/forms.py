"""Forms of codes: they decide whether a text can be a code of a system, or must be treated as free text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vitalake.declarations import per_home
from vitalake.errors import SettingsError
from vitalake.strict_yaml import read_yaml
from vitalake.vocabulary.openness import Openness, openness, signs_of

Fits = Callable[[str], bool]

KNOWN_TEXTS = 65_536
"""Size of the cache of texts with whether they fit: messages repeat the same few hundred texts."""

MOST_UNIT = 24
"""Most characters of an unknown unit that is shown; the longest unit of the vocabulary has half as many."""

# Multiplication in the dihedral group, and the permutation, of Verhoeff's check digit (J. Verhoeff, 1969).
_TIMES = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTED = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip
_CONCEPTS = ("00", "10")
"""Partition identifiers of SNOMED CT concepts; identifiers of descriptions and relationships are not codes."""


MOST_CODE = 200
"""Most characters of a code whose form a home declares; a longer text is not a code."""


@dataclass(frozen=True, slots=True)
class LinearPattern:
    """A regular expression that a home declares. RE2 matches it in linear time, however it is written."""

    pattern: str

    def fullmatch(self, text: str) -> bool:
        """Return whether the whole text matches."""
        return len(text) <= MOST_CODE and self._matches(text)

    def check(self) -> None:
        """Raise ValueError if it is not a regular expression of RE2.

        It is also tried alone, because a closing bracket in it could match the opening one that we put before it.
        """
        try:
            LinearPattern._match(self.pattern, "")
            self._matches("")
        except pa.ArrowInvalid:
            raise ValueError(self.pattern) from None

    def any_of(self, texts: pa.Array) -> bool:
        """Return whether one of several texts matches as a whole."""
        return bool(pc.any(pc.match_substring_regex(texts, self._whole())).as_py())

    def _matches(self, text: str) -> bool:
        return self._match(self._whole(), text)

    def _whole(self) -> str:
        return rf"\A(?:{self.pattern})\z"

    @staticmethod
    def _match(pattern: str, text: str) -> bool:
        return bool(pc.match_substring_regex(pa.array([text], pa.string()), pattern)[0].as_py())


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a system's codes.

    Attributes:
        pattern: regular expression that matches a whole code.
        check: name of a further check, such as of a check digit; None: no further check.
        source: the specification that the form comes from.
    """

    pattern: re.Pattern[str] | LinearPattern
    check: str | None = None
    source: str = ""

    def fits(self, text: str) -> bool:
        """Return whether a text can be a code."""
        return _fits(self, text)


@lru_cache(KNOWN_TEXTS)
def _fits(form: Form, text: str) -> bool:
    if not form.pattern.fullmatch(text):
        return False
    return form.check is None or _CHECKS[form.check](text)


def is_concept_id(code: str) -> bool:
    """Return whether digits are the identifier of a SNOMED CT concept, by its check digit and partition.

    >>> is_concept_id("271594007"), is_concept_id("5550100")
    (True, False)
    """
    state = 0
    for place, digit in enumerate(reversed(code)):
        state = int(_TIMES[state][int(_PERMUTED[place % 8][int(digit)])])
    return state == 0 and code[-3:-1] in _CONCEPTS


_OTHER_DIGIT = frozenset({"3150-6"})
"""LOINC codes in daily use whose check digit differs from what LOINC's rule gives."""


def is_loinc(code: str) -> bool:
    """Return whether a LOINC code, or the code of a LOINC answer (LA…), has the right check digit.

    In the code of an answer the letters LA lower the sum by 5, or by 2 if the number of digits is odd. All published
    answers follow this rule.

    >>> is_loinc("8867-4"), is_loinc("8867-5"), is_loinc("LA33-6"), is_loinc("LA137-2")
    (True, False, True, True)
    """
    number, _, check = code.removeprefix("LA").partition("-")
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(number)))
    if code.startswith("LA"):
        total -= 2 if len(number) % 2 else 5
    return -total % 10 == int(check) or code in _OTHER_DIGIT


_NUMBERED = "EHMOR"
"""Chapters of ICD-10-CM where the seventh character can be a digit: eyes, gout, pregnancy, coma. Elsewhere it is a
letter."""


def is_icd_10_cm(code: str) -> bool:
    """Return whether the seventh character of a code is one that its chapter allows; a shorter code always passes.

    Without this check a letter and six digits, such as a record number, could pass for a code.

    >>> is_icd_10_cm("S72001A"), is_icd_10_cm("O36.0110"), is_icd_10_cm("A123456")
    (True, True, False)
    """
    return len(code.replace(".", "")) < 7 or code[-1].isalpha() or code[0] in _NUMBERED


_CHECKS: dict[str, Fits] = {"snomed-ct": is_concept_id, "loinc": is_loinc, "icd-10-cm": is_icd_10_cm}


def form_of(entry: dict[str, Any]) -> Form:
    """Return the form that an entry of a YAML file declares.

    Raises:
        KeyError, re.error: it declares no form, or a check that does not exist.
    """
    check = entry.get("check")
    if check is not None:
        _CHECKS[check]
    # ASCII, so that \d does not match digits of other scripts.
    return Form(re.compile(entry["form"], re.ASCII), check, str(entry.get("source", "")))


_WORDS = (
    "Jane Doe", "see note of Dr. X", "patient's sister, phone 555 0100", "Müller, 1950-05-05", "Mueller", "mueller",
    "Mueller-Jane", "DOE^JANE", "DOE,JANE", "Doe,Jane", "12345678", "01555501234", "15550100123", "1950-05-05",
    "19500505", "05.05.1950", "123456", "500505", "wurde um neun gegeben\n",
)  # fmt: skip
"""What people type in the place of a code: names, numbers of patients and telephones, dates, words."""


MOST_OPEN = Openness(letters=2, digits=6)
"""Most places that the form of a home may leave open: three letters can be a name, seven digits a date of birth."""

_OPEN_IN_DATES = 5
"""Digits that say a day if the century or the decade is written out."""

_OPEN_IN_NAMED_DATES = 3
"""The same, if the month has its name."""

_YEARS, _DAYS = range(1900, 2040), ((1, 5), (9, 28), (12, 3))

_MONTHS = tuple(
    tuple(cased for name in names.split() for cased in (name, name.upper(), name.lower()))
    for names in (
        "Jan", "Feb", "Mar Mrz Mär", "Apr", "May Mai", "Jun", "Jul", "Aug", "Sep", "Oct Okt", "Nov", "Dec Dez",
    )
)  # fmt: skip
"""Short names of each month, English and German."""

_MOST_BY_CHANCE = 3
"""Months that a form with two open letters may match by chance: a code of the form of MRI123 can be MAR123."""

_SOME_YEARS = (1906, 1913, 1924, 1931, 1942, 1950, 1968, 1975, 1987, 1999, 2005, 2016, 2027, 2038)
"""A year of each decade: a form may write out the decade."""

_MOST_PAIRED = 3
"""Most signs of a form that are also tried in pairs: with more of them, the dates would be millions."""


@cache
def _dates() -> pa.Array:
    """Return dates of every year, with year, month and day in any usual order and any usual sign between them."""
    found = set()
    for year, (month, day) in product(_YEARS, _DAYS):
        found |= {sign.join(parts) for parts in _spelled(year, month, day) for sign in ("", "/", ".", "-", " ")}
    return pa.array(sorted(found), pa.string())


@cache
def _dates_between(signs: frozenset[str], named: tuple[str, ...] = ()) -> pa.Array:
    """Return dates of some years, with none, one or two of these signs between year, month and day.

    Args:
        signs: that a form has.
        named: the short names of the month; empty: months have their numbers.
    """
    pairs = map("".join, product(sorted(signs), repeat=2)) if len(signs) <= _MOST_PAIRED else ()
    between = ["", *sorted(signs), *pairs]
    days: Iterable[tuple[str | int, int]] = product(named, (3, 12)) if named else _DAYS
    dates = {parts for year, (month, day) in product(_SOME_YEARS, days) for parts in _spelled(year, month, day)}
    # Beside a name a sign may be missing. Between numbers none or both are: 2345-7 is no date.
    both = [(x, y) for x, y in product(between, repeat=2) if named or bool(x) is bool(y)]
    return pa.array([f"{a}{x}{b}{y}{c}" for a, b, c in dates for x, y in both], pa.string())


def _spelled(year: int, month: int | str, day: int) -> Iterator[tuple[str, str, str]]:
    """Yield the parts of a date in every usual order, with and without century and leading zeros."""
    for y, width in product((f"{year}", f"{year % 100:02}"), (2, 1)):
        m, d = month if isinstance(month, str) else f"{month:0{width}}", f"{day:0{width}}"
        yield from ((y, m, d), (d, m, y), (m, d, y), (y, d, m))


class UnsafeForm(ValueError):
    """Names, or numbers of patients, have the form, too."""


def own_form(pattern: str, source: str = "") -> Form:
    """Return the form that a home declares.

    Raises:
        UnsafeForm: it leaves too many letters or digits open, or dates or other words that people type have it.
        ValueError: it is not a regular expression of RE2.
    """
    found = LinearPattern(pattern)
    found.check()
    left = openness(pattern)
    if left.letters > MOST_OPEN.letters or left.digits > MOST_OPEN.digits or any(map(found.fullmatch, _WORDS)):
        raise UnsafeForm
    if left.digits >= _OPEN_IN_DATES and found.any_of(_dates()):
        raise UnsafeForm
    if left.digits >= _OPEN_IN_DATES and found.any_of(_dates_between(signs_of(pattern))):
        raise UnsafeForm
    if left.digits >= _OPEN_IN_NAMED_DATES:
        matched = sum(found.any_of(_dates_between(signs_of(pattern), names)) for names in _MONTHS)
        if matched > (_MOST_BY_CHANCE if left.letters >= MOST_OPEN.letters else 0):
            raise UnsafeForm
    return Form(found, source=source)


@cache
def _document() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml((resources.files(__package__) / "forms.yaml").read_text())
    return found


@cache
def shipped_forms() -> dict[str, Form]:
    """Return the forms that ship with the project, by name."""
    return {name: form_of(entry) for name, entry in _document()["forms"].items()}


@per_home
def load_forms() -> dict[str, Form]:
    """Return the forms that ship with the project and those of the home in use, by name.

    Raises:
        SettingsError: the home's vocabulary is not valid.
    """
    from vitalake.vocabulary.home import own_forms

    return shipped_forms() | own_forms()


OF_VOCABULARY = ("coded-value", "absent-reason", "unit", "any-unit")
"""Forms that the vocabulary defines; no file declares them."""


def fits_of(name: str) -> Fits:
    """Return the function that checks whether a text has a form.

    Besides the forms of forms.yaml and of the home there are four that the vocabulary defines: ``coded-value``
    (``<system>|<code>`` of a known system, or true or false), ``absent-reason``, ``unit`` (a unit of the vocabulary)
    and ``any-unit`` (a text made of UCUM's atoms, such as the unit of a dose).

    Raises:
        SettingsError: there is no such form.
    """
    from vitalake.vocabulary import NO_UNIT, load_vocabulary

    if name in OF_VOCABULARY:
        vocabulary = load_vocabulary()
        units, reasons = frozenset(vocabulary.units) - {NO_UNIT}, vocabulary.absent_codes | {"other"}
        of_vocabulary: dict[str, Fits] = {
            "coded-value": vocabulary.is_known_code,
            "absent-reason": reasons.__contains__,
            "unit": units.__contains__,
            "any-unit": lambda text: text in units or _is_unit(text),
        }
        return of_vocabulary[name]
    form = load_forms().get(name)
    if form is None:
        raise SettingsError(
            "Unknown form of a column",
            where=name,
            remedy=f"Use one of: {', '.join([*load_forms(), *OF_VOCABULARY])}.",
        )
    return form.fits


@cache
def _unit() -> re.Pattern[str]:
    """Return the pattern of a unit that is made of the atoms in forms.yaml, powers of ten and numbers."""
    units = _document()["units"]

    def any_of(texts: list[str]) -> str:
        return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))

    atom = f"(?:(?:{any_of(units['prefixes'])})?(?:{any_of(units['metric'])})|{any_of(units['other'])})"
    term = rf"(?:(?:10[*^]|x?10\^|×10\^|x10e)\d{{1,2}}|\d{{1,4}}|{atom}(?:[+-]?\d)?)"
    return re.compile(rf"[/.]?{term}(?:[/.·]{term}){{0,3}}")


MOST_DIGITS = 4
"""Most digits in the factors of a unit that are plain numbers, such as in 1.73 m² or 24 h. More could be a telephone
number or a date."""

_NUMBER = re.compile(r"(?<![^/.·])\d+(?![^/.·])")


def unit_to_show(text: str | None) -> str:
    """Return an unknown unit as an error may show it; a text that is not made of units is not shown.

    >>> unit_to_show("mg/kg/min"), unit_to_show("see note by Dr. X"), unit_to_show("1950/05/05"), unit_to_show(None)
    ('mg/kg/min', 'a unit that is not shown', 'a unit that is not shown', 'no unit')
    """
    from vitalake.vocabulary import load_vocabulary

    if not text:
        return "no unit"
    return text if text in load_vocabulary().units or _is_unit(text) else "a unit that is not shown"


def _is_unit(text: str) -> bool:
    """Return whether a text is made of units, with at least one letter: numbers alone could be a date."""
    made_of = len(text) <= MOST_UNIT and _unit().fullmatch(text) and len("".join(_NUMBER.findall(text))) <= MOST_DIGITS
    return bool(made_of) and any(map(str.isalpha, text))
