"""Reads HL7 v2's times, which have at least minutes, with the zone of the time, the message or the profile."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.times import MOST_OFFSET_MINUTES
from pipelines.formats.shared.zones import Zone

_TIME = re.compile(
    r"(\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(?:(\d{2})(?:\.(\d{1,9}))?)?(?P<offset>(?P<sign>[+-])(\d{2})(\d{2}))?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Moment(NamedTuple):
    """An instant: microseconds since 1970, and the offset it was written with, in minutes."""

    us: int
    offset_minutes: int


class Written(NamedTuple):
    """A time as it is written.

    Attributes:
        wall_us: the wall clock's microseconds since 1970.
        offset_minutes: its own offset; None without one.
        span_us: its precision: a minute if it has no seconds.
    """

    wall_us: int
    offset_minutes: int | None
    span_us: int


def read_time(text: str) -> Written:
    """Read a time ``YYYYMMDDhhmm[ss[.f]][±hhmm]``; digits beyond the microsecond are cut off.

    Raises:
        Refused: the text has another form, or there is no such day or hour. A day alone is not enough.
    """
    found = _TIME.fullmatch(text)
    if found is None or not text.isascii():
        raise Refused(Reason.BAD_TIME)
    year, month, day, hour, minute, second, fraction = found.groups()[:7]
    try:
        wall = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=UTC)
    except ValueError:
        raise Refused(Reason.BAD_TIME) from None
    us = (wall - _EPOCH) // _MICROSECOND + int((fraction or "").ljust(6, "0")[:6])
    span_us = 60_000_000 if second is None else 10 ** max(0, 6 - len(fraction or ""))
    if found["offset"] is None:
        return Written(us, None, span_us)
    hours, minutes = int(found["offset"][1:3]), int(found["offset"][3:])
    offset = hours * 60 + minutes
    if minutes > 59 or offset > MOST_OFFSET_MINUTES:
        raise Refused(Reason.BAD_TIME)
    return Written(us, -offset if found["sign"] == "-" else offset, span_us)


def instant(written: Written, *, offset_minutes: int | None, clock: Zone | None) -> Moment:
    """Return the instant of a written time.

    Args:
        written: with or without an offset.
        offset_minutes: the message's offset, for a time without one.
        clock: the profile's zone, if the message has no offset either.

    Raises:
        Refused: there is no zone, or this local time is skipped or ambiguous in it.
    """
    offset = written.offset_minutes if written.offset_minutes is not None else offset_minutes
    if offset is not None:
        return Moment(written.wall_us - offset * 60_000_000, offset)
    seconds = clock.offset_seconds(written.wall_us // 1_000_000) if clock else None
    if seconds is None:
        raise Refused(Reason.BAD_TIME)
    return Moment(written.wall_us - seconds * 1_000_000, seconds // 60)


def in_order(written: Written, clock: Zone | None, *, offset_minutes: int | None = None) -> int:
    """Return microseconds for ordering versions; an ambiguous local time counts as its first instant.

    Args:
        written: with or without an offset.
        clock: the profile's zone, if neither the time nor the message has an offset.
        offset_minutes: the message's offset, for a time without one.
    """
    offset = written.offset_minutes if written.offset_minutes is not None else offset_minutes
    if offset is not None:
        return written.wall_us - offset * 60_000_000
    return written.wall_us - (clock.first_offset_seconds(written.wall_us // 1_000_000) if clock else 0) * 1_000_000
