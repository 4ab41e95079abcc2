"""Times in the ward's time zone, with the zone's short name, so that summer and winter time can be distinguished."""

from __future__ import annotations

import os
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

_LOCALTIME = Path("/etc/localtime")
_FOLDER = "/zoneinfo/"
_HALF_A_DAY_US = 12 * 3_600_000_000


class _Ward:
    """The zone of the one ward that a process serves."""

    zone: tzinfo = UTC


def use_zone(name: str) -> None:
    """Set the zone of all times.

    Args:
        name: the IANA name, such as ``Europe/Berlin``; empty: the machine's zone.
    """
    _Ward.zone = ZoneInfo(name or machine_zone())


def zone_name() -> str:
    """Return the zone's name, for browsers."""
    return getattr(_Ward.zone, "key", "UTC")


def machine_zone() -> str:
    """Return the name of the machine's zone; UTC if it has none."""
    for name in (os.environ.get("TZ", "").removeprefix(":"), str(_LOCALTIME.resolve()).partition(_FOLDER)[2]):
        try:
            if name:
                return ZoneInfo(name).key
        except (ValueError, OSError):  # a rule such as CET-1CEST, or a file that is not a zone
            continue
    return "UTC"


def local(us: int) -> datetime:
    """Return microseconds since 1970 as a datetime in the ward's zone."""
    return datetime.fromtimestamp(us / 1e6, tz=_Ward.zone)


def clock_time(us: int) -> str:
    """Return a moment with its day: ``26 Oct 02:30 CEST``.

    The zone's short name distinguishes the two hours that have the same clock times when summer time ends.
    """
    return f"{local(us):%d %b %H:%M} {short_zone(us)}".lstrip("0")


def clock_minute(us: int) -> str:
    """Return the time of day: ``02:30``."""
    return f"{local(us):%H:%M}"


def clock_near(us: int, now_us: int) -> str:
    """Return the time of day; with the day if it is half a day from now or more."""
    return clock_minute(us) if abs(now_us - us) < _HALF_A_DAY_US else clock_time(us)


def clock_second(us: int) -> str:
    """Return the time of day to the second: ``02:30:05 CEST``."""
    return f"{local(us):%H:%M:%S} {short_zone(us)}"


def clock_second_near(us: int, now_us: int) -> str:
    """Return the time of day to the second; day and minute instead if it is half a day from now or more."""
    return clock_second(us) if abs(now_us - us) < _HALF_A_DAY_US else clock_time(us)


def local_second(moment: datetime | str) -> str:
    """Return a moment with its date, to the second: ``2026-10-25 02:30:05 CEST``.

    Args:
        moment: an aware datetime, or RFC 3339 text.
    """
    aware = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    us = int(aware.timestamp() * 1e6)
    return f"{local(us):%Y-%m-%d} {clock_second(us)}"


def short_zone(us: int) -> str:
    """Return the zone's short name at a moment; a name without letters, such as ``-03``, becomes ``UTC-03``."""
    name = local(us).tzname() or "UTC"
    return name if name.isalpha() else f"UTC{name}"
