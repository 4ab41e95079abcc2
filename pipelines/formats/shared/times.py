"""Parses FHIR's times a column at a time; the result for one row never depends on the other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

MICROSECONDS = pa.timestamp("us", "UTC")
MOST_OFFSET_MINUTES = 14 * 60
"""The largest offset from UTC in use (the Line Islands), and the limit of FHIR's dateTime and HL7 v2."""
_SHORTEST = len("2026-11-23T10:00:00Z")
_OFFSET = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?[+-]\d{2}:\d{2}$"
_OVERLONG = r"(\.\d{6})\d+"


@dataclass(frozen=True, slots=True)
class Times:
    """Parsed times.

    Attributes:
        us: microseconds since 1970, UTC; 0 without a time.
        offset_minutes: the offset that the sender wrote; 0 for Z.
        absent: no time was given.
        bad: a text was given that is not an instant.
    """

    us: npt.NDArray[np.int64]
    offset_minutes: npt.NDArray[np.int16]
    absent: npt.NDArray[np.bool_]
    bad: npt.NDArray[np.bool_]


def names_a_place(moment: datetime) -> bool:
    """Return whether a moment has an offset from UTC that is in use somewhere."""
    offset = moment.utcoffset()
    return offset is not None and abs(offset) <= timedelta(minutes=MOST_OFFSET_MINUTES)


def parse_times(texts: Sequence[str | None]) -> Times:
    """Return the instants of FHIR dateTimes.

    A date alone, a year and month, a missing zone and a second 60 are bad on purpose: they name no instant. So is an
    offset beyond MOST_OFFSET_MINUTES, which no place uses. Digits beyond the microsecond are cut off, not rounded.
    """
    array = pa.array(texts, pa.string())
    beyond = None
    absent = array.is_null().to_numpy(zero_copy_only=False)
    zulu = pc.ends_with(array, "Z")
    shaped = pc.and_(pc.greater_equal(pc.binary_length(array), _SHORTEST), _has_t(array))
    offsets = np.zeros(len(array), np.int16)
    if not pc.all(zulu, min_count=0).as_py():
        plain = pc.match_substring_regex(array, _OFFSET)
        shaped = pc.and_(shaped, pc.or_(zulu, plain))
        offsets, beyond = _offsets(array, pc.and_(pc.invert(zulu), shaped))
    good = pc.fill_null(shaped, False)
    if beyond is not None:
        good = pc.and_(good, pa.array(~beyond))
    us, valid = _cast(pc.if_else(good, array, pa.scalar(None, pa.string())))
    return Times(us, offsets, absent, ~absent & ~valid)


def _has_t(array: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_slice_codeunits(array, 10, 11), "T")


def _offsets(array: pa.Array, written: pa.Array) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_] | None]:
    """Return minutes east of UTC, read from the last six characters, and which offsets are invalid; None: no offset is.

    Each distinct suffix is read once.
    """
    suffixes = pc.if_else(pc.fill_null(written, False), pc.utf8_slice_codeunits(array, -6, None), "+00:00")
    encoded = suffixes.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    minutes = [(-1 if text[0] == "-" else 1) * (int(text[1:3]) * 60 + int(text[4:6])) for text in texts]
    values = np.array(minutes or [0], np.int64)
    beyond = (np.abs(values) > MOST_OFFSET_MINUTES) | np.array([int(text[4:6]) > 59 for text in texts] or [False])
    values[beyond] = 0
    place = encoded.indices.to_numpy(zero_copy_only=False)
    return values[place].astype(np.int16), beyond[place] if beyond.any() else None


def _cast(array: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return instants, and which are valid: one cast for all; if it fails, the same cast on halves."""
    parsed = _try_cast(array)
    if parsed is None:
        parsed = _bisect(pc.replace_substring_regex(array, _OVERLONG, r"\1"))
    valid = parsed.is_valid().to_numpy(zero_copy_only=False)
    return pc.fill_null(parsed.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), valid


def _try_cast(array: pa.Array) -> pa.Array | None:
    try:
        return array.cast(MICROSECONDS)
    except pa.ArrowInvalid:
        return None


def _bisect(array: pa.Array) -> pa.Array:
    parsed = _try_cast(array)
    if parsed is not None:
        return parsed
    if len(array) == 1:
        return pa.nulls(1, MICROSECONDS)
    middle = len(array) // 2
    return pa.concat_arrays([_bisect(array.slice(0, middle)), _bisect(array.slice(middle))])
