"""The ward's time: the wall clock's, or during a replay that of the replay."""

from __future__ import annotations

import msgspec

from pipelines.online_store.meta import Meta
from vitalake import clock


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


class WardTime:
    """The ward's time, and how far back the store keeps values.

    Attributes:
        hours_us: for how long the store keeps values, microseconds.
    """

    def __init__(self, meta: Meta, hours_us: int) -> None:
        self._meta, self.hours_us = meta, hours_us

    def replay(self) -> Replay | None:
        """Return the running replay; None: the ward's time is the wall clock's."""
        text = self._meta.get("replay")
        return msgspec.json.decode(text, type=Replay) if text else None

    def set_replay(self, replay: Replay | None) -> None:
        """Set the ward's time to that of a replay; for demonstrations only, and every page says so."""
        self._meta.put("replay", msgspec.json.encode(replay).decode() if replay else "")

    def now_us(self) -> int:
        """Return the ward's time, microseconds since 1970 UTC."""
        return self.at(clock.now_us())

    def at(self, wall_us: int) -> int:
        """Return the ward's time at a moment of the wall clock; both in microseconds since 1970 UTC."""
        replay = self.replay()
        return replay.at(wall_us) if replay else wall_us

    def horizon_us(self) -> int:
        """Return the time from which on the store keeps values, by the ward's time; microseconds since 1970 UTC."""
        return self.now_us() - self.hours_us
