"""Whether the store has everything that the lake has: it can be new, an older copy, or filled again from the lake."""

from __future__ import annotations

import sqlite3

from pipelines.online_store.lanes import Lanes
from pipelines.online_store.meta import Meta
from vitalake import clock

_SILENT_US = 60_000_000
"""How long after its last beat a killed lane can still have decided; a running lane beats every five seconds."""


class Completeness:
    """What the store's file notes of its own beginning and of its fillings."""

    def __init__(self, connection: sqlite3.Connection, meta: Meta, lanes: Lanes, *, hours_us: int) -> None:
        self._db, self._meta, self._lanes, self._hours_us = connection, meta, lanes, hours_us

    def name(self) -> str:
        """Return the random name of this file; a file created in its place has another one, early ones have none."""
        return self._meta.get("store")

    def made_us(self) -> int:
        """Return when the store was created, or first opened by a release that notes it; microseconds since 1970."""
        return int(self._meta.get("made") or 0)

    def is_new(self) -> bool:
        """Return whether nothing was ever stored here."""
        any_row = "SELECT 1 FROM taken UNION ALL SELECT 1 FROM fact UNION ALL SELECT 1 FROM lane LIMIT 1"
        return self._db.execute(any_row).fetchone() is None

    def is_older(self, writer: str, decided_us: int) -> bool:
        """Return whether this file is an older copy of the store: a lane decided rows long after its last beat here.

        Args:
            writer: the lane.
            decided_us: when the lane last decided rows, microseconds since 1970 UTC.
        """
        beat_us, _ = self._lanes.beats().get(writer, (decided_us, True))
        return decided_us > max(beat_us + _SILENT_US, self.made_us(), self.filled_us())

    def note_incomplete(self) -> None:
        """Note that the store is new, or older than the lake, and lacks rows that came before."""
        self._meta.put("lacking", str(clock.now_us()))

    def incomplete_since_us(self) -> int:
        """Return when the store was noted as incomplete, microseconds since 1970 UTC; 0: it is complete."""
        since = int(self._meta.get("lacking") or 0)
        return 0 if not since or self.is_filled_since(since) else since

    def note_filled(self, *, with_decisions: bool = True) -> None:
        """Note that the store was filled from the restricted zone.

        Args:
            with_decisions: whether all decisions of clinicians were found again.
        """
        self._meta.put("filled", str(clock.now_us()))
        self._meta.put("lacks-decisions", "" if with_decisions else "1")

    def lacks_decisions(self) -> bool:
        """Return whether decisions could be missing since the store was filled, within the hours that it keeps."""
        return bool(self._meta.get("lacks-decisions")) and clock.now_us() - self.filled_us() < self._hours_us

    def filled_us(self) -> int:
        """Return when the store was last filled from the restricted zone, microseconds since 1970 UTC; 0: never."""
        return int(self._meta.get("filled") or 0)

    def is_filled_since(self, moment_us: int) -> bool:
        """Return whether the store was filled after a moment, or that moment is before the hours that it keeps."""
        return self.filled_us() > moment_us or clock.now_us() - moment_us > self._hours_us
