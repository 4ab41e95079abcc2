"""Values in words: a number that was sent as text is a number; an answer of a scale is its code."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitalake.vocabulary import Vocabulary

Flags = npt.NDArray[np.bool_]

COMPARATORS = {"<": "<", "<=": "<=", "=<": "<=", "≤": "<=", ">": ">", ">=": ">=", "=>": ">=", "≥": ">=", "=": None}
_NUMBER = re.compile(
    r"(?P<comparator><=|>=|=<|=>|[<>≤≥=])?\s*"
    r"(?P<number>[+\-−]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)"
    r"(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
_GROUPED = re.compile(r"[,.'’ ]\s?\d", re.ASCII)
_NO_NUMBER = re.compile(r"[-–:+^]|/\s*\d|\.\.|to\b", re.ASCII)
"""Behind the first number of what is none: a range, a ratio or titre, a time, ``2+``."""


class Words(NamedTuple):
    """What a text says.

    Attributes:
        number, comparator, unit: of a number; the unit is None where none is written behind it.
        answer: the code of a scale's answer.
        unread: it begins with a number and cannot be read as one for sure.
    """

    number: float | None = None
    comparator: str | None = None
    unit: str | None = None
    answer: str | None = None
    unread: bool = False


def read_words(text: str) -> Words:
    """Return the number that a text is, with its comparator, and the unit that may stand behind it.

    A comma is not read: it parts decimals here and thousands there, and which of them nobody can tell. What is no
    number (``positive``, ``see note 3``, ``3-5``, ``1:160``) says nothing of the kind.
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return Words()
    rest = found["rest"]
    if _GROUPED.match(rest):
        return Words(unread=True)
    rest = rest.strip()
    if _NO_NUMBER.match(rest):
        return Words()
    number = float(found["number"].replace("−", "-"))
    if not np.isfinite(number):
        return Words(unread=True)
    return Words(number, COMPARATORS[found["comparator"] or "="], rest or None)


def with_values_of_words(rows: pa.RecordBatch, vocabulary: Vocabulary) -> tuple[pa.RecordBatch, Flags | None]:
    """Return the rows, those with nothing but words with what the words say, and which begin with an unread number.

    The words stay beside it. A unit in the words must be the one that is told besides, if there is one.

    Args:
        rows: DECODED_SCHEMA.
        vocabulary: units, and the answers of scales.
    """
    texts = rows["value_text"]
    if texts.null_count == len(rows):
        return rows, None
    chosen = texts.is_valid().to_numpy(zero_copy_only=False)
    for name in ("value", "value_code", "data_absent_reason"):
        chosen &= rows[name].is_null().to_numpy(zero_copy_only=False)
    which = np.flatnonzero(chosen)
    if not len(which):
        return rows, None
    mine = rows.take(pa.array(which))
    given = zip(mine["code"].to_pylist(), mine["value_text"].to_pylist(), mine["unit"].to_pylist(), strict=True)
    said = [_said(code, text, unit, vocabulary) for code, text, unit in given]
    unread = np.zeros(len(rows), np.bool_)
    unread[which] = [words.unread for words in said]
    return _with(rows, which, said), unread if unread.any() else None


def _said(code: str, text: str, unit: str | None, vocabulary: Vocabulary) -> Words:
    answers = vocabulary.answers.get(code)
    if answers is not None:
        return Words(answer=answers.code_of(text))
    words = read_words(text)
    if words.number is None or words.unit is None:
        return words._replace(unit=unit)
    written = vocabulary.unit_index(words.unit)
    if written < 0 or (unit is not None and vocabulary.unit_index(unit) != written):
        return Words(unread=True)
    return words


def _with(rows: pa.RecordBatch, which: npt.NDArray[np.int64], said: list[Words]) -> pa.RecordBatch:
    numbers = rows["value"].to_numpy(zero_copy_only=False).astype(np.float64)
    numbers[which] = [np.nan if words.number is None else words.number for words in said]
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns["value"] = pa.array(numbers, mask=np.isnan(numbers))
    for name, field in (("comparator", "comparator"), ("unit", "unit"), ("value_code", "answer")):
        texts = rows[name].to_pylist()
        for i, words in zip(which.tolist(), said, strict=True):
            texts[i] = getattr(words, field)
        columns[name] = pa.array(texts, pa.string()).dictionary_encode()
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=rows.schema)
