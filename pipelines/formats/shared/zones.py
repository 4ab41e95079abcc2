"""Converts local times without a zone to instants, by the time zone of the place where they were written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from vitalake.errors import SettingsError

Repeated = Literal["first", "second", "reject"]

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall clock has no zone
_FIRST = -62_135_510_400  # 0001-01-02 and 9999-12-30: beyond them an offset could leave the range of datetime
_LAST = 253_402_128_000
_MOST_CACHED = 100_000


class Zone:
    """The clock of a time zone.

    Times in the hour that summer time skips are bad: they have no instant. Times in the hour that is repeated at its
    end have two instants: ``repeated`` says which one is meant, or that such times are bad as well.
    """

    def __init__(self, name: str, *, repeated: Repeated = "reject") -> None:
        """Make one.

        Raises:
            SettingsError: there is no such zone.
        """
        try:
            self._zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise SettingsError(
                "Unknown time zone", where="zone", remedy="Write an IANA name, like Europe/Berlin."
            ) from None
        self.name, self._repeated = name, repeated
        self._cache: dict[int, int | None] = {}

    def offset_seconds(self, wall_seconds: int) -> int | None:
        """Return the offset from UTC at a wall clock's seconds since 1970; None if the time is skipped or ambiguous."""
        if not _FIRST <= wall_seconds <= _LAST:
            return None
        if wall_seconds not in self._cache:
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            self._cache[wall_seconds] = self._look_up(wall_seconds)
        return self._cache[wall_seconds]

    def first_offset_seconds(self, wall_seconds: int) -> int:
        """Return the offset; for a skipped or ambiguous time, the offset from before the clock change."""
        if not _FIRST <= wall_seconds <= _LAST:
            return 0
        wall = _EPOCH + timedelta(seconds=wall_seconds)
        return int((wall.replace(tzinfo=self._zone).utcoffset() or timedelta()).total_seconds())

    def _look_up(self, wall_seconds: int) -> int | None:
        wall = _EPOCH + timedelta(seconds=wall_seconds)
        first = wall.replace(tzinfo=self._zone)
        before, after = (first.replace(fold=fold).utcoffset() or timedelta() for fold in (0, 1))
        if before != after:
            if first.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) != wall:
                return None  # skipped
            if self._repeated == "reject":
                return None
        chosen = after if self._repeated == "second" else before
        return int(chosen.total_seconds())

    def to_utc(
        self, wall_us: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
        """Return instants, offsets in minutes, and which wall clock times are skipped or ambiguous."""
        seconds, place = np.unique(np.floor_divide(wall_us, 1_000_000), return_inverse=True)
        found = [self.offset_seconds(second) for second in seconds.tolist()]
        offsets = np.array([offset or 0 for offset in found], np.int64)[place]
        bad = np.array([offset is None for offset in found], np.bool_)[place]
        return wall_us - offsets * 1_000_000, (offsets // 60).astype(np.int16), bad
