"""Reads the value of OBX-5 by its type in OBX-2."""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines.formats.hl7.fields import FieldReader
from pipelines.formats.hl7.text import Dialect
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.reasons import Reason

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_COMPARATORS = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "=": None, "": None}
_WORDS = frozenset({"ST", "TX", "FT"})
_CODED = frozenset({"CWE", "CE", "CNE", "CF", "IS", "ID"})


class ObxValue(NamedTuple):
    """The value of an OBX: a number, a code, a text, or the reason for its absence."""

    number: float | None = None
    comparator: str | None = None
    code: str | None = None
    words: str | None = None
    absent: str | None = None


STATUSES: dict[str, tuple[str, int]] = {
    "P": ("preliminary", 1), "R": ("preliminary", 1), "S": ("preliminary", 1),
    "I": ("registered", 0), "O": ("registered", 0),
    "F": ("final", 2), "V": ("final", 3), "U": ("final", 3),
    "A": ("amended", 4), "B": ("amended", 4), "C": ("corrected", 4),
    "N": ("cancelled", 5), "X": ("cancelled", 5),
    "D": ("entered-in-error", 6), "W": ("entered-in-error", 6),
}  # fmt: skip
"""OBX-11 → FHIR's status by HL7's own map, and its rank among messages sent at the same time."""

WITHOUT_VALUE = {
    "I": ObxValue(absent="temp-unknown"), "O": ObxValue(absent="temp-unknown"), "N": ObxValue(absent="not-asked"),
    "X": ObxValue(absent="unknown"), "D": ObxValue(absent="unknown"), "W": ObxValue(absent="unknown"),
}  # fmt: skip
"""Statuses whose value is not read: it is not there yet, will never be, or is taken back."""


def value_of(kind: str, text: str, dialect: Dialect, names: FieldReader) -> ObxValue:
    """Return the value of OBX-5.

    Ranges, ratios, lists of numbers, times, documents and pictures are not read.

    Raises:
        Refused: the value is not valid for its type, or its type is not read.
    """
    if kind == "NM":
        return _number(_only(text, dialect))
    if kind == "SN":
        return _structured(_only(text, dialect), dialect)
    if kind in _WORDS:
        lines = [dialect.plain(repetition) for repetition in dialect.repetitions(text)]
        return ObxValue(words="\n".join(lines))
    if kind in _CODED:
        code, words = names.value(_only(text, dialect), dialect)
        if code is None and words is None:
            raise Refused(Reason.NO_VALUE)
        return ObxValue(code=code, words=words)
    raise Refused(Reason.NO_VALUE if kind else Reason.WRONG_SHAPE)


def _only(text: str, dialect: Dialect) -> str:
    """Return the only repetition; refuse several, because they would be results with one identity."""
    if dialect.separators.repetition in text:
        raise Refused(Reason.WRONG_SHAPE)
    return text


def number_of(text: str) -> float:
    """Return a decimal number; blanks around it are ignored.

    Raises:
        Refused: the text is not a number, or beyond the range of a float.
    """
    text = text.strip(" ")
    if not _NUMBER.fullmatch(text) or (number := float(text)) in (float("inf"), float("-inf")):
        raise Refused(Reason.WRONG_SHAPE)
    return number


def _number(text: str) -> ObxValue:
    """Return a number with its comparator: analysers write ``<0.01`` for values outside their range."""
    text = text.strip(" ")
    comparator = next((sign for sign in ("<=", ">=", "<", ">") if text.startswith(sign)), "")
    return ObxValue(number=number_of(text[len(comparator) :]), comparator=_COMPARATORS[comparator])


def _structured(text: str, dialect: Dialect) -> ObxValue:
    comparator, first, *more = [*dialect.parts(text, dialect.separators.component), ""][:4]
    comparator = comparator.strip()
    if comparator not in _COMPARATORS:
        raise Refused(Reason.WRONG_SHAPE)
    if any(more):
        raise Refused(Reason.NO_VALUE)
    return ObxValue(number=number_of(first), comparator=_COMPARATORS[comparator])
