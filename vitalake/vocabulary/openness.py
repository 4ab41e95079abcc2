r"""How many letters and digits of a text a regular expression leaves open: enough of them can be a name or a number.

A pattern such as ``[A-Z]{2,5}`` matches codes and surnames alike, and ``[0-9]{8}`` matches dates of birth. What a home
declares may therefore leave only few characters open; the others are written out, as in ``LAB-[0-9]{4}`` or
``GLU|CREA``.

RE2 matches the patterns, and Python's parser counts here. So only what both read alike is a pattern: characters,
classes of them, ``\d``, ``\w``, groups, alternatives and repetitions.
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

# The parser of ``re``, which is private: the tree is walked here, and nothing is matched with it.
_parser: Any = import_module("re._parser")
op: Any = import_module("re._constants")

UNLIMITED = 1_000
"""Stands for a repetition without an end, and for a place where any character of any script can stand."""

_ESCAPED = r"\\(?:[dw]|(?!_)[!-/:-@\[-`{-~])"
_PART = re.compile(
    rf"{_ESCAPED}"
    rf"|\[\^?(?:{_ESCAPED}|[^\[\]\\])+\]"  # [[:digit:]] is a class within a class in RE2, and a text in Python
    r"|\((?:\?:|(?!\?))"  # (?i) and other flags, (?=…)
    r"|\{[0-9]+(?:,[0-9]*)?\}"  # {,3} is a repetition in Python, and a text in RE2
    r"|[^\\\[\](){}]|\)"
)
"""A part of a pattern that RE2 and Python read alike."""


class Openness(NamedTuple):
    """The most places of a text at which a pattern leaves the letter, or the digit, open."""

    letters: int = 0
    digits: int = 0


def parse(pattern: str) -> Any:
    """Return the tree of a pattern as Python reads it.

    Raises:
        ValueError: it is not a regular expression, or Python and RE2 could read it in two ways.
    """
    if not re.fullmatch(rf"(?:{_PART.pattern})*", pattern):
        raise ValueError(pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # &&, ||, -- and ~~ within a class
            return _parser.parse(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError, Warning):
        raise ValueError(pattern) from None


def has_dot(pattern: str) -> bool:
    """Return whether a pattern that ``parse`` takes has a dot that stands for any character."""
    return "." in re.findall(_PART, pattern)


def openness(pattern: str) -> Openness:
    """Return at how many places of a text a pattern leaves letters and digits open.

    A place is a class of characters, a choice between alternatives, or a part that can be missing. Of alternatives the
    one that leaves most open counts.

    Raises:
        ValueError: it is not a regular expression, or Python and RE2 could read it in two ways.
    """
    tree = parse(pattern)
    return Openness(*(_sequence(tree, kind).open for kind in (_is_letter, _is_digit)))


_Kind = Callable[[str], bool]


def _is_letter(char: str) -> bool:
    """Return whether a character is a letter; of another script than ASCII every character counts as one."""
    return char in string.ascii_letters or not char.isascii()


def _is_digit(char: str) -> bool:
    return char in string.digits


class _Left(NamedTuple):
    """What a part leaves open of one kind of character, and whether it also has written-out ones."""

    open: int = 0
    written: bool = False


def _sequence(items: Any, kind: _Kind) -> _Left:
    found = [_item(operator, argument, kind) for operator, argument in items]
    return _Left(sum(one.open for one in found), any(one.written for one in found))


def _item(operator: Any, argument: Any, kind: _Kind) -> _Left:
    if operator is op.AT:
        return _Left()
    if operator is op.LITERAL:
        return _Left(written=kind(chr(argument)))
    if operator in (op.ANY, op.NOT_LITERAL):
        return _Left(UNLIMITED)
    if operator is op.IN:
        return _Left(_of_class(argument, kind))
    if operator is op.SUBPATTERN:
        return _sequence(argument[3], kind)
    if operator is op.BRANCH:
        return _Left(_of_alternatives([_sequence(branch, kind) for branch in argument[1]]))
    if operator in (op.MAX_REPEAT, op.MIN_REPEAT):
        least, most = int(argument[0]), UNLIMITED if argument[1] is op.MAXREPEAT else int(argument[1])
        once = _sequence(argument[2], kind)
        if once.open == 0 and once.written and least != most:
            return _Left(1)  # A? is a choice, as (A|) is
        return _Left(once.open * most, once.written)
    raise ValueError(operator)  # possessive repetitions: RE2 has none


def _of_alternatives(branches: list[_Left]) -> int:
    """Return how many places alternatives leave open.

    Texts that are written out, such as GLU|CREA, are one place. Of alternatives that leave something open themselves,
    what is written out in them is one more: A[0-9]|B[0-9] is as open as [AB][0-9].
    """
    several = sum(branch.open > 0 for branch in branches) > 1
    return max(branch.open + (branch.written and (several or branch.open == 0)) for branch in branches)


def _of_class(members: Any, kind: _Kind) -> int:
    """Return how many places a class of characters leaves open: one, or very many if it has whole other scripts."""
    found = 0
    for operator, given in members:
        if operator is op.LITERAL:
            found = max(found, int(kind(chr(given))))
        elif operator is op.RANGE and given[1] < 0x80:
            found = max(found, int(any(kind(chr(code)) for code in range(given[0], given[1] + 1))))
        elif operator is op.CATEGORY and given in _CATEGORIES:
            found = max(found, int(any(map(kind, _CATEGORIES[given]))))
        else:  # [^…], or a range of another script: two of its characters can be a whole name
            return UNLIMITED
    return found


def characters(operator: Any, argument: Any) -> frozenset[str]:
    """Return the characters of a literal, or of a class that leaves only few places open: it has no other script."""
    if operator is op.LITERAL:
        return frozenset(chr(argument))
    found = set[str]()
    for member, given in argument:
        if member is op.LITERAL:
            found.add(chr(given))
        elif member is op.RANGE:
            found.update(map(chr, range(given[0], given[1] + 1)))
        else:
            found.update(_CATEGORIES[given])
    return frozenset(found)


_CATEGORIES = {op.CATEGORY_DIGIT: string.digits, op.CATEGORY_WORD: string.digits + string.ascii_letters + "_"}
