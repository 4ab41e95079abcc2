"""The ward's time during a replay, when it is not the wall clock's time."""

from __future__ import annotations

import msgspec


class Replay(msgspec.Struct, frozen=True):
    """A replay of old data.

    Attributes:
        start_us: the ward's time at the beginning.
        wall_us: the wall clock's time at the beginning.
        speed: how many times as fast as the wall clock the ward's time runs.
        end_us: the ward's time at which the replay stops.
    """

    start_us: int
    wall_us: int
    speed: float
    end_us: int

    def at(self, wall_us: int) -> int:
        """Return the ward's time at a moment of the wall clock; it does not go beyond the replay's end."""
        return min(self.start_us + int((wall_us - self.wall_us) * self.speed), max(self.end_us, self.start_us))
