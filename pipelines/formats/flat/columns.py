"""Converts values of device JSON to columns; each distinct text is read once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.formats.flat.profile import IdentifierPlace, TimeFormat
from pipelines.formats.shared.encoded import Encoded, Refused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.times import Times, parse_times
from pipelines.formats.shared.words import COMPARATORS
from pipelines.formats.shared.zones import Zone

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_NUMBER = re.compile(
    r"(?:(?P<comparator><=|>=|=<|=>|[<>≤≥])\s*)?(?P<number>[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?)", re.ASCII
)
_COMPARED = frozenset("<>=≤≥")
_SCALE = {"epoch-s": 1e6, "epoch-ms": 1e3, "epoch-us": 1.0}
_MOST_US = 253_370_764_800_000_000
"""The beginning of the year 9999: later times are bad."""


def identifiers(values: Sequence[Any], name: IdentifierPlace) -> Encoded[str]:
    """Return identifiers as texts, ``<system>|<value>`` if the profile names a system; blank ones are absent."""
    place: dict[Any, int] = {}
    texts: list[str | None] = []
    refused: dict[int, Refused] = {}
    for value in dict.fromkeys(values):
        text = "" if value is None else str(value)
        if not text.strip():
            place[value] = -1
            continue
        place[value] = len(texts)
        if "\0" in text:
            refused[len(texts)] = Refused(Reason.CONTROL_CHARACTER, name.path.text)
        texts.append(f"{name.system}|{text}" if name.system else text)
    return Encoded(np.fromiter(map(place.__getitem__, values), np.int32, len(values)), texts, refused)


def indices_of_words(
    values: Sequence[Any], meanings: Mapping[str, int], *, absent: int, unknown: int
) -> npt.NDArray[np.int32]:
    """Return the index that ``meanings`` gives to each word; ``absent`` for null, ``unknown`` for another word."""
    place = {value: absent if value is None else meanings.get(str(value), unknown) for value in dict.fromkeys(values)}
    return np.fromiter(map(place.__getitem__, values), np.int32, len(values))


class Numbers(NamedTuple):
    """A column of numbers.

    Attributes:
        values: the numbers; NaN for an absent one, or for a value that the profile declares as absent.
        bad: which values are not numbers although they should be.
        comparators: the comparator of each number; None: no number has one.
    """

    values: Floats
    bad: Flags
    comparators: list[str | None] | None


def numbers(values: Sequence[Any], absent: Collection[float | str]) -> Numbers:
    """Return a column of numbers.

    A text is a number if it consists of decimal digits, with or without a comparator before them; a text with blanks
    around it is not a number.
    """
    comparators = None
    try:
        found = np.array(values, np.float64) if str not in set(map(type, values)) else None
    except OverflowError:
        found = None
    if found is not None:
        bad = np.isinf(found)
    else:
        read = {value: _number(value, absent) for value in dict.fromkeys(values)}
        bad = np.array([read[value] is None for value in values], np.bool_)
        if any(isinstance(value, str) and value[:1] in _COMPARED for value in read):
            comparators = [_comparator(value) for value in values]
        found = np.array([np.nan if read[value] is None else read[value] for value in values], np.float64)
    found = found.reshape(len(values))
    for sign in absent:
        if not isinstance(sign, str):
            found[found == sign] = np.nan
    return Numbers(found, bad, comparators)


def _comparator(value: Any) -> str | None:
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    return COMPARATORS[found["comparator"]] if found and found["comparator"] else None


def _number(value: Any, absent: Collection[float | str]) -> float | None:
    """Return a number, NaN if it is absent, None for a value that is not a number."""
    if value is None or (isinstance(value, str) and value in absent):
        return np.nan
    if isinstance(value, str):
        written = _NUMBER.fullmatch(value)
        if written is None:
            return None
        value = written["number"]
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if np.isfinite(number) else None


def instants(values: Sequence[Any], kind: TimeFormat, zone: Zone | None) -> Times:
    """Return the instants of a column of times; the offset of epoch times is 0, like that of a time in Z."""
    if kind == "rfc3339":
        return parse_times(values)
    if kind == "local":
        assert zone is not None
        return local_times(values, zone)
    try:
        scaled = np.array(values, np.float64).reshape(len(values)) * _SCALE[kind]
    except OverflowError:
        finite = [None if v is None else v if abs(v) < _MOST_US else np.inf for v in values]
        scaled = np.array(finite, np.float64) * _SCALE[kind]
    absent = np.isnan(scaled)
    bad = ~absent & ~(np.abs(scaled) < _MOST_US)
    us = np.rint(np.where(absent | bad, 0.0, scaled)).astype(np.int64)
    return Times(us, np.zeros(len(values), np.int16), absent, bad)


def local_times(values: Sequence[str | None], zone: Zone) -> Times:
    """Return the instants of ``YYYY-MM-DD hh:mm:ss[.f]`` by a zone's clock; a T can replace the blank."""
    wall = parse_times([None if value is None else _as_zulu(value) for value in values])
    us, offsets, bad = zone.to_utc(wall.us)
    return Times(us, offsets, wall.absent, wall.bad | (bad & ~wall.absent))


def _as_zulu(text: str) -> str:
    return f"{text[:10]}T{text[11:]}Z" if text[10:11] in ("T", " ") else "no time"
