"""Reads values that were sent as text: a number becomes a number, an answer of a scale its code."""

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
"""Follows the first number of a text that is not a number: a range, a ratio or titre, a time, ``2+``."""


class ParsedText(NamedTuple):
    """The number or the answer in a text.

    Attributes:
        number, comparator, unit: the number with its comparator; the unit is None if none follows the number.
        answer: the code of a scale's answer.
        unread: the text begins with a number and cannot be read as one safely.
    """

    number: float | None = None
    comparator: str | None = None
    unit: str | None = None
    answer: str | None = None
    unread: bool = False


def parse_text(text: str) -> ParsedText:
    """Return the number in a text, with its comparator and the unit that follows it.

    A comma is not read: it separates decimals in some countries and thousands in others. A text that is not a number
    (``positive``, ``see note 3``, ``3-5``, ``1:160``) gives an empty result.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return ParsedText()
    rest = match["rest"]
    if _GROUPED.match(rest):
        return ParsedText(unread=True)
    rest = rest.strip()
    if _NO_NUMBER.match(rest):
        return ParsedText()
    number = float(match["number"].replace("−", "-"))
    if not np.isfinite(number):
        return ParsedText(unread=True)
    return ParsedText(number, COMPARATORS[match["comparator"] or "="], rest or None)


def with_parsed_texts(rows: pa.RecordBatch, vocabulary: Vocabulary) -> tuple[pa.RecordBatch, Flags | None]:
    """Fill in numbers and answers of rows that have only a text; also return which texts hold an unreadable number.

    The text is kept as well. If both the text and the message name a unit, they must be the same.

    Args:
        rows: DECODED_SCHEMA.
        vocabulary: has the units, and the answers of scales.
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
    texts_only = rows.take(pa.array(which))
    given = zip(*(texts_only[name].to_pylist() for name in ("code", "value_text", "unit")), strict=True)
    parsed = [_parsed(code, text, unit, vocabulary) for code, text, unit in given]
    unread = np.zeros(len(rows), np.bool_)
    unread[which] = [one.unread for one in parsed]
    return _with(rows, which, parsed), unread if unread.any() else None


def _parsed(code: str, text: str, unit: str | None, vocabulary: Vocabulary) -> ParsedText:
    answers = vocabulary.answers.get(code)
    if answers is not None:
        return ParsedText(answer=answers.code_of(text))
    parsed = parse_text(text)
    if parsed.number is None or parsed.unit is None:
        return parsed._replace(unit=unit)
    written = vocabulary.unit_index(parsed.unit)
    if written < 0 or (unit is not None and vocabulary.unit_index(unit) != written):
        return ParsedText(unread=True)
    return parsed


def _with(rows: pa.RecordBatch, which: npt.NDArray[np.int64], parsed: list[ParsedText]) -> pa.RecordBatch:
    numbers = rows["value"].to_numpy(zero_copy_only=False).astype(np.float64)
    numbers[which] = [np.nan if one.number is None else one.number for one in parsed]
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns["value"] = pa.array(numbers, mask=np.isnan(numbers))
    for name, field in (("comparator", "comparator"), ("unit", "unit"), ("value_code", "answer")):
        texts = rows[name].to_pylist()
        for i, one in zip(which.tolist(), parsed, strict=True):
            texts[i] = getattr(one, field)
        columns[name] = pa.array(texts, pa.string()).dictionary_encode()
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=rows.schema)
