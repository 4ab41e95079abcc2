"""Times that name no zone, read by the clock of where they were written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from vitalake.errors import SettingsError

Repeated = Literal["first", "second", "reject"]

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the clock on the wall
_FIRST = -62_135_510_400  # 0001-01-02 and 9999-12-30: beyond them a zone's offset may leave the calendar
_LAST = 253_402_128_000
_REMEMBERED = 100_000


class Zone:
    """A place's clock.

    The hour that summer time skips has no instants: its times are bad. The hour that is repeated when it ends has two
    for each: ``repeated`` says which is meant, or that they are bad as well.
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
        self._known: dict[int, int | None] = {}

    def offset_seconds(self, wall_seconds: int) -> int | None:
        """Return the offset from UTC at a wall clock's seconds since 1970; None where it has no one instant."""
        if not _FIRST <= wall_seconds <= _LAST:
            return None
        if wall_seconds not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[wall_seconds] = self._look_up(wall_seconds)
        return self._known[wall_seconds]

    def first_offset_seconds(self, wall_seconds: int) -> int:
        """Return the offset before a change of the clock, also in the hours that have no one instant."""
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
        """Return instants, offsets in minutes, and which walls' times have no one instant."""
        seconds, place = np.unique(np.floor_divide(wall_us, 1_000_000), return_inverse=True)
        found = [self.offset_seconds(second) for second in seconds.tolist()]
        offsets = np.array([offset or 0 for offset in found], np.int64)[place]
        bad = np.array([offset is None for offset in found], np.bool_)[place]
        return wall_us - offsets * 1_000_000, (offsets // 60).astype(np.int16), bad
