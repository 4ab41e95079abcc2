"""How many letters and digits of a text a regular expression leaves open: enough of them can be a name or a number.

A pattern such as ``[A-Z]{2,5}`` matches codes and surnames alike, and ``[0-9]{8}`` matches dates of birth. What a home
declares may therefore leave only few characters open; the others are written out, as in ``LAB-[0-9]{4}`` or
``GLU|CREA``.
"""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from typing import Any, NamedTuple

# The parser of ``re``, which is private: the tree is walked here, and nothing is matched with it.
_parser: Any = import_module("re._parser")
_op: Any = import_module("re._constants")

UNLIMITED = 1_000
"""Stands for a repetition without an end."""

_TRIED = [chr(code) for code in range(0x20, 0x7F)] + list("ÄÖÜäöüßéñçÅåØøŁł٣")


class Openness(NamedTuple):
    """The most characters that a pattern leaves open, at places where more than one of their kind can stand."""

    letters: int = 0
    digits: int = 0

    def then(self, other: Openness) -> Openness:
        """Return what this and another part leave open together."""
        return Openness(self.letters + other.letters, self.digits + other.digits)

    def times(self, count: int) -> Openness:
        """Return what so many repetitions leave open."""
        return Openness(self.letters * count, self.digits * count)


def openness(pattern: str) -> Openness:
    """Return how many letters and digits a pattern leaves open; alternatives count as the most that one of them does.

    Raises:
        ValueError: it is not a regular expression, or uses what only one of RE2 and Python has.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # [[:alpha:]] is another set in Python
            tree = _parser.parse(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError, Warning):
        raise ValueError(pattern) from None
    return _sequence(tree, chosen=False)


def _sequence(items: Any, *, chosen: bool) -> Openness:
    found = Openness()
    for operator, argument in items:
        found = found.then(_item(operator, argument, chosen=chosen))
    return found


def _item(operator: Any, argument: Any, *, chosen: bool) -> Openness:
    """Return what a part leaves open; ``chosen``: it is repeated with a choice, so that its letters are open, too."""
    if operator is _op.AT:
        return Openness()
    if operator is _op.LITERAL:
        return Openness(int(chosen and chr(argument).isalpha()), int(chosen and chr(argument).isdigit()))
    if operator in (_op.IN, _op.ANY, _op.NOT_LITERAL):
        fitting = [char for char in _TRIED if _fits(operator, argument, char)]
        letters, digits = (sum(map(kind, fitting)) for kind in (str.isalpha, str.isdigit))
        return Openness(int(letters > 1), int(digits > 1))
    if operator is _op.SUBPATTERN:
        return _sequence(argument[3], chosen=chosen)
    if operator is _op.BRANCH:
        each = [_sequence(branch, chosen=chosen) for branch in argument[1]]
        return Openness(max(one.letters for one in each), max(one.digits for one in each))
    if operator in (_op.MAX_REPEAT, _op.MIN_REPEAT):
        most = UNLIMITED if argument[1] is _op.MAXREPEAT else int(argument[1])
        return _sequence(argument[2], chosen=chosen or (most > 1 and _has_choice(argument[2]))).times(most)
    raise ValueError(operator)  # look-around, back-references: RE2 has none


def _has_choice(items: Any) -> bool:
    """Return whether a part has alternatives, or parts that can be missing."""
    for operator, argument in items:
        if operator is _op.BRANCH:
            return True
        if operator is _op.SUBPATTERN and _has_choice(argument[3]):
            return True
        if operator in (_op.MAX_REPEAT, _op.MIN_REPEAT) and (argument[0] != argument[1] or _has_choice(argument[2])):
            return True
    return False


def _fits(operator: Any, argument: Any, char: str) -> bool:
    if operator is _op.ANY:
        return True
    if operator is _op.NOT_LITERAL:
        return ord(char) != argument
    negated = argument[0][0] is _op.NEGATE
    return negated != any(_is_in(kind, given, char) for kind, given in argument[negated:])


def _is_in(kind: Any, given: Any, char: str) -> bool:
    if kind is _op.LITERAL:
        return ord(char) == given
    if kind is _op.RANGE:
        return bool(given[0] <= ord(char) <= given[1])
    return re.fullmatch(_CATEGORIES[given], char, re.ASCII) is not None


_CATEGORIES = {
    _op.CATEGORY_DIGIT: r"\d",
    _op.CATEGORY_NOT_DIGIT: r"\D",
    _op.CATEGORY_SPACE: r"\s",
    _op.CATEGORY_NOT_SPACE: r"\S",
    _op.CATEGORY_WORD: r"\w",
    _op.CATEGORY_NOT_WORD: r"\W",
}
