"""Forms that codes have: whether a text can be a code of a system, or is somebody's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vitalake.declarations import per_home
from vitalake.errors import SettingsError
from vitalake.strict_yaml import read_yaml

Fits = Callable[[str], bool]

KNOWN_TEXTS = 65_536
"""Texts remembered with whether they fit: polls repeat the same few hundred."""

MOST_UNIT = 24
"""Characters of a unit that is shown; the longest of the vocabulary has half of them."""

# The dihedral group's multiplication and the permutation of Verhoeff's check (J. Verhoeff, 1969).
_TIMES = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTED = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip
_CONCEPTS = ("00", "10")
"""Partition identifiers of concepts; those of descriptions and relationships are no codes."""


MOST_CODE = 200
"""Characters of a code of a home's form; what is longer is none."""


@dataclass(frozen=True, slots=True)
class LinearPattern:
    """A regular expression that somebody else wrote: RE2 matches it in time that grows with the text alone."""

    pattern: str

    def fullmatch(self, text: str) -> bool:
        """Return whether the whole text matches."""
        return len(text) <= MOST_CODE and self._matches(text)

    def check(self) -> None:
        """Raise ValueError if it is none; it is tried as it stands, too, for a bracket may close ours."""
        try:
            LinearPattern._match(self.pattern, "")
            self._matches("")
        except pa.ArrowInvalid:
            raise ValueError(self.pattern) from None

    def _matches(self, text: str) -> bool:
        return self._match(rf"\A(?:{self.pattern})\z", text)

    @staticmethod
    def _match(pattern: str, text: str) -> bool:
        return bool(pc.match_substring_regex(pa.array([text], pa.string()), pattern)[0].as_py())


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a system's codes.

    Attributes:
        pattern: a whole match.
        check: what else holds of its codes, such as their check digit; None: nothing that is held to.
        source: who says so.
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
    """Return whether digits are the identifier of a SNOMED CT concept.

    >>> is_concept_id("271594007"), is_concept_id("5550100")
    (True, False)
    """
    state = 0
    for place, digit in enumerate(reversed(code)):
        state = int(_TIMES[state][int(_PERMUTED[place % 8][int(digit)])])
    return state == 0 and code[-3:-1] in _CONCEPTS


_OTHER_DIGIT = frozenset({"3150-6"})
"""Codes of LOINC in daily use whose check digit is not the one that its rule gives."""


def is_loinc(code: str) -> bool:
    """Return whether a code of LOINC, or of one of its answers (LA…), has the right check digit.

    Of answers the two letters count for 5 or 2, by how many digits follow: so have all that are published.

    >>> is_loinc("8867-4"), is_loinc("8867-5"), is_loinc("LA33-6"), is_loinc("LA137-2")
    (True, False, True, True)
    """
    number, _, check = code.removeprefix("LA").partition("-")
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(number)))
    if code.startswith("LA"):
        total -= 2 if len(number) % 2 else 5
    return -total % 10 == int(check) or code in _OTHER_DIGIT


_NUMBERED = "EHMOR"
"""Chapters of ICD-10-CM with codes whose seventh character is a digit: eyes, gout, pregnancies, coma; else a letter."""


def is_icd_10_cm(code: str) -> bool:
    """Return whether a code of seven characters ends as those of its chapter do: no letter and six digits elsewhere.

    >>> is_icd_10_cm("S72001A"), is_icd_10_cm("O36.0110"), is_icd_10_cm("A123456")
    (True, True, False)
    """
    return len(code.replace(".", "")) < 7 or code[-1].isalpha() or code[0] in _NUMBERED


_CHECKS: dict[str, Fits] = {"snomed-ct": is_concept_id, "loinc": is_loinc, "icd-10-cm": is_icd_10_cm}


def form_of(entry: dict[str, Any]) -> Form:
    """Return the form that an entry of a YAML file declares.

    Raises:
        KeyError, re.error: it declares none, or a check digit that is not known.
    """
    check = entry.get("check")
    if check is not None:
        _CHECKS[check]
    # ASCII: a digit of another script is no digit of a code.
    return Form(re.compile(entry["form"], re.ASCII), check, str(entry.get("source", "")))


_WORDS = (
    "Jane Doe", "see note of Dr. X", "patient's sister, phone 555 0100", "Müller, 1950-05-05", "Mueller", "mueller",
    "Mueller-Jane", "DOE^JANE", "DOE,JANE", "Doe,Jane", "12345678", "01555501234", "15550100123", "1950-05-05",
    "19500505", "05.05.1950", "wurde um neun gegeben\n",
)  # fmt: skip
"""What people type where a code should stand: names, numbers of patients and telephones, dates, words."""


def own_form(pattern: str, source: str = "") -> Form:
    """Return the form that a home declares.

    Raises:
        ValueError: it is no regular expression that is matched in linear time, or somebody's words have the form.
    """
    found = LinearPattern(pattern)
    found.check()
    if any(map(found.fullmatch, _WORDS)):
        raise ValueError(pattern)
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
        SettingsError: the home's vocabulary does not hold.
    """
    from vitalake.vocabulary.home import own_forms

    return shipped_forms() | own_forms()


OF_VOCABULARY = ("coded-value", "absent-reason", "unit", "any-unit")
"""Forms that follow from the vocabulary; no file declares them."""


def fits_of(name: str) -> Fits:
    """Return what tells whether a text has a form.

    Besides those of forms.yaml and of the home there are four that follow from the vocabulary: ``coded-value``
    (``<system>|<code>`` of a system it knows, or a truth), ``absent-reason``, ``unit`` (one that some code's values may
    come in) and ``any-unit`` (what is made of UCUM's atoms, such as a dose's unit).

    Raises:
        SettingsError: there is no such form.
    """
    from vitalake.vocabulary import NO_UNIT, load_vocabulary

    if name in OF_VOCABULARY:
        vocabulary = load_vocabulary()
        units, reasons = frozenset(vocabulary.units) - {NO_UNIT}, vocabulary.absent_codes | {"other"}
        of_vocabulary: dict[str, Fits] = {
            "coded-value": vocabulary.knows,
            "absent-reason": reasons.__contains__,
            "unit": units.__contains__,
            "any-unit": lambda text: text in units or _is_unit(text),
        }
        return of_vocabulary[name]
    form = load_forms().get(name)
    if form is None:
        raise SettingsError(
            "Unknown form of a column", where=name, remedy=f"The forms are: {', '.join(load_forms())}; or see forms.py."
        )
    return form.fits


@cache
def _unit() -> re.Pattern[str]:
    units = _document()["units"]

    def any_of(texts: list[str]) -> str:
        return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))

    atom = f"(?:(?:{any_of(units['prefixes'])})?(?:{any_of(units['metric'])})|{any_of(units['other'])})"
    term = rf"(?:(?:10[*^]|x?10\^|×10\^|x10e)\d{{1,2}}|\d{{1,4}}|{atom}(?:[+-]?\d)?)"
    return re.compile(rf"[/.]?{term}(?:[/.·]{term}){{0,3}}")


MOST_DIGITS = 4
"""Of the factors of a unit that are numbers and nothing else: of a body's 1.73 m², of a day's 24 hours."""

_NUMBER = re.compile(r"(?<![^/.·])\d+(?![^/.·])")


def unit_to_show(text: str | None) -> str:
    """Return a unit that is not known as a message may show it; words of the sender are not shown.

    >>> unit_to_show("mg/kg/min"), unit_to_show("see note by Dr. X"), unit_to_show("1950/05/05"), unit_to_show(None)
    ('mg/kg/min', 'a unit that is not shown', 'a unit that is not shown', 'no unit')
    """
    from vitalake.vocabulary import load_vocabulary

    if not text:
        return "no unit"
    return text if text in load_vocabulary().units or _is_unit(text) else "a unit that is not shown"


def _is_unit(text: str) -> bool:
    """Return whether a text is made of units; numbers alone may be a telephone number or a date."""
    made_of = len(text) <= MOST_UNIT and _unit().fullmatch(text) and len("".join(_NUMBER.findall(text))) <= MOST_DIGITS
    return bool(made_of) and any(map(str.isalpha, text))
