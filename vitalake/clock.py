"""The one place that reads the time of day, so that tests can set it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Gives the time of day."""

    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        return datetime.fromtimestamp(time.time(), tz=UTC)


def now() -> datetime:
    """Return the present moment by the machine's clock, aware, in UTC."""
    return SystemClock().now()


def now_us() -> int:
    """Return microseconds since 1970-01-01T00:00:00Z by the machine's clock."""
    return time.time_ns() // 1000
