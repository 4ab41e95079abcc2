"""Forms of codes: they decide whether a text can be a code of a system, or must be treated as free text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vitalake.declarations import per_home
from vitalake.errors import SettingsError
from vitalake.strict_yaml import read_yaml
from vitalake.vocabulary import dates
from vitalake.vocabulary.openness import Openness, has_dot, openness
from vitalake.vocabulary.overlap import Automaton, known, overlap

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
        refused: why a form of the home cannot be used; None: it can. Nothing fits a refused form. Reading it is no
            error, because an earlier release may have taken it: its home must still be able to read tables, and to
            erase patients from them.
    """

    pattern: re.Pattern[str] | LinearPattern
    check: str | None = None
    source: str = ""
    refused: SettingsError | None = field(default=None, compare=False, repr=False)

    def fits(self, text: str) -> bool:
        """Return whether a text can be a code."""
        return self.refused is None and _fits(self, text)


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


def is_pzn(code: str) -> bool:
    """Return whether the number of a German medicine has the right check digit, and is no date.

    Digits alone can be a date of birth, of which one in eleven has the right digit. Behind ``PZN`` they are none.

    >>> is_pzn("27580899"), is_pzn("PZN-6319429"), is_pzn("27580890"), is_pzn("04011957"), is_pzn("PZN04011957")
    (True, True, False, False, True)
    """
    digits = code.removeprefix("PZN").removeprefix("-").zfill(8)
    total = sum(weight * int(digit) for weight, digit in enumerate(digits[:-1], 1))
    return total % 11 == int(digits[-1]) and (code.startswith("PZN") or not re.fullmatch(dates.UNSIGNED, code))


_CHECKS: dict[str, Fits] = {
    "snomed-ct": is_concept_id, "loinc": is_loinc, "icd-10-cm": is_icd_10_cm, "pzn": is_pzn,
}  # fmt: skip


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
"""Digits that say a day if the century or the decade is written out; 20[0-9]{4} numbers the orders of a year."""

_OPEN_IN_FULL = 3
"""The same, if the whole year is there, or if the month has its name."""

_MOST_BY_CHANCE = 3
"""Months that a form with two open letters may match by chance: a code of the form of MRI123 can be MAR123."""


class UnsafeForm(ValueError):
    """Names, or numbers of patients, have the form, too.

    Attributes:
        why: what has the form.
        remedy: what to write instead.
    """

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why, remedy)
        self.why, self.remedy = why, remedy


_OR_LIST = "or list the codes: GLU|CREA as the form, values in the column, or a list of the rules."


def own_form(pattern: str, source: str = "") -> Form:
    """Return the form that a home declares.

    Raises:
        UnsafeForm: it leaves too many letters or digits open, or dates or other words that people type have it.
        ValueError: it is not a regular expression of RE2.
    """
    found = LinearPattern(pattern)
    found.check()
    left = openness(pattern)
    if has_dot(pattern):
        why = "a dot without \\ before it is any sign, so that names and dates can have this form, too"
        raise UnsafeForm(why, "Write \\. where the code has a dot; else which signs there can be, such as [A-Z0-9].")
    too_open = UnsafeForm(
        "names of people, or numbers of patients, can have this form, too",
        f"Leave {MOST_OPEN.letters} letters and {MOST_OPEN.digits} digits open at most, in ASCII; write out the rest, "
        f"such as LAB-[0-9]{{4}}; {_OR_LIST}",
    )
    if left.letters > MOST_OPEN.letters or left.digits > MOST_OPEN.digits:
        raise too_open
    if _has_dates(pattern, left):
        raise UnsafeForm(
            "dates, such as a date or a month of birth, can have this form, too",
            f"Write out what stands before the number, such as LAB-[0-9]{{5}}; {_OR_LIST}",
        )
    if any(map(found.fullmatch, _WORDS)):
        raise too_open
    return Form(found, source=source)


def _has_dates(pattern: str, left: Openness) -> bool:
    """Return whether dates have a form."""
    if left.digits < _OPEN_IN_FULL:
        return False
    found = Automaton(pattern)
    if overlap(found, known(dates.IN_FULL)):
        return True
    if left.digits >= _OPEN_IN_DATES and any(overlap(found, known(of)) for of in (dates.UNSIGNED, dates.SIGNED)):
        return True
    months = sum(overlap(found, known(names)) for names in dates.NAMED)
    return months > (_MOST_BY_CHANCE if left.letters >= MOST_OPEN.letters else 0)


@cache
def _document() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml((resources.files(__package__) / "forms.yaml").read_text())
    return found


@cache
def shipped_forms() -> dict[str, Form]:
    """Return the forms that ship with the project, by name."""
    return {name: form_of(entry) for section in ("forms", "further") for name, entry in _document()[section].items()}


def is_taken(name: str) -> bool:
    """Return whether a form of a home cannot have a name: datasets of the project mean another form by it."""
    return name in _document()["forms"] or name in OF_VOCABULARY


@per_home
def load_forms() -> dict[str, Form]:
    """Return the forms that ship with the project and those of the home in use, by name.

    Raises:
        SettingsError: the home's vocabulary is not valid.
    """
    from vitalake.vocabulary.home import own_forms

    return shipped_forms() | own_forms()


CODED_VALUE = "coded-value"

OF_VOCABULARY = (CODED_VALUE, "absent-reason", "unit", "any-unit")
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
            CODED_VALUE: vocabulary.is_known_code,
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


def refusal_of(name: str) -> SettingsError | None:
    """Return why a form of the home cannot be used, so that no text fits it; None: it can, or it is not the home's."""
    if is_taken(name):
        return None
    form = load_forms().get(name)
    return None if form is None else form.refused


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
