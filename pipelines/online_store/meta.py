"""The table ``meta``: single notes on the store as a whole, each under its name."""

from __future__ import annotations

import sqlite3


class Meta:
    """The table of notes on the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def get(self, name: str) -> str:
        """Return a note; empty: there is none of this name."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def put(self, name: str, value: str) -> None:
        """Write a note in the place of the one of this name."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def generation(self) -> str:
        """Return a text that changes whenever rows were deleted or moved to another number; see begin_generation."""
        return self.get("generation")

    def begin_generation(self) -> None:
        """Begin a new generation: every reader and writer of the store drops what it has cached."""
        self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'")
