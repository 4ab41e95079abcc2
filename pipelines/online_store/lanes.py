"""The heartbeats of the lanes that write to the store, by which the ward sees that one is missing."""

from __future__ import annotations

from vitalake import clock
from vitalake.sqlite import Database


class Lanes:
    """The table of lanes."""

    def __init__(self, database: Database) -> None:
        self._database, self._db = database, database.connection

    def beat(self, writer: str, *, ended: bool = False) -> None:
        """Record that a lane is running, or that it has ended by itself; by the wall clock, even in a replay.

        Args:
            writer: ``<job>/<i>of<n>``; beats of the job's lanes under another number of shards are deleted.
            ended: the lane was asked to end, or has nothing more to read.

        Raises:
            ServiceUnavailable: the store cannot be written.
        """
        job, _, shard = writer.rpartition("/")
        others = f"{job}/%of{shard.partition('of')[2]}"
        with self._database.transaction():
            self._db.execute("DELETE FROM lane WHERE writer LIKE ? AND writer NOT LIKE ?", (f"{job}/%", others))
            self._db.execute("INSERT OR REPLACE INTO lane VALUES (?, ?, ?)", (writer, clock.now_us(), ended))

    def beats(self) -> dict[str, tuple[int, bool]]:
        """Return for every lane the time of its last beat, and whether it has ended by itself."""
        rows = self._db.execute("SELECT writer, beat_us, ended FROM lane").fetchall()
        return {writer: (beat_us, bool(ended)) for writer, beat_us, ended in rows}

    def prune(self, horizon: int) -> None:
        """Delete the lanes of jobs that died long ago; a lane that ended by itself stays on record."""
        old = {writer: ended for writer, (beat_us, ended) in self.beats().items() if beat_us < horizon}
        dead = {writer.rpartition("/")[0] for writer, ended in old.items() if not ended}
        gone = [(writer,) for writer in old if writer.rpartition("/")[0] in dead]
        self._db.executemany("DELETE FROM lane WHERE writer = ?", gone)
