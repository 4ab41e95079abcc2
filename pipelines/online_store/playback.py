"""The ward's time, where it is not the wall clock's."""

from __future__ import annotations

import msgspec


class Replay(msgspec.Struct, frozen=True):
    """The ward's time while old data are replayed: it began at ``start_us`` and runs ``speed`` times as fast."""

    start_us: int
    wall_us: int
    speed: float
    end_us: int

    def at(self, wall_us: int) -> int:
        """Return the ward's time at a moment of the wall clock; it does not go beyond the replay's end."""
        return min(self.start_us + int((wall_us - self.wall_us) * self.speed), max(self.end_us, self.start_us))
