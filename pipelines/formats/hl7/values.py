"""OBX-5, by the type that OBX-2 says."""

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
    """What was found: a number, a code, words, or why there is nothing."""

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
"""OBX-11 → FHIR's status, as HL7's own map has it, and its rank among messages of one time."""

WITHOUT_VALUE = {
    "I": ObxValue(absent="temp-unknown"), "O": ObxValue(absent="temp-unknown"), "N": ObxValue(absent="not-asked"),
    "X": ObxValue(absent="unknown"), "D": ObxValue(absent="unknown"), "W": ObxValue(absent="unknown"),
}  # fmt: skip
"""Results whose value is not read: there is none yet, there will be none, or it is taken back, whatever it was."""


def value_of(kind: str, text: str, dialect: Dialect, names: FieldReader) -> ObxValue:
    """Return the value of OBX-5.

    A range, a ratio, a list of numbers, a time, a document and a picture are not read: such a result has no value.

    Raises:
        Refused: it is not what its type says, or of a kind that is not read.
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
    """Return the one repetition: several values of one result could not be told apart."""
    if dialect.separators.repetition in text:
        raise Refused(Reason.WRONG_SHAPE)
    return text


def number_of(text: str) -> float:
    """Return a number of decimal digits; blanks around it are not looked at.

    Raises:
        Refused: it is none, or beyond what a float can be.
    """
    text = text.strip(" ")
    if not _NUMBER.fullmatch(text) or (number := float(text)) in (float("inf"), float("-inf")):
        raise Refused(Reason.WRONG_SHAPE)
    return number


def _number(text: str) -> ObxValue:
    """Return a number, and the comparator that analysers write before what they cannot measure."""
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
