"""SQLite's files: what a process does beside SQLite must not take SQLite's locks away."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from vitalake.sqlite import Database

SHARED_FIRST, SHARED_BYTES = 0x4000_0002, 510
"""The bytes on which SQLite holds its shared lock; of a write-ahead log as long as a connection is open."""

_ASK = """
import fcntl, struct, sys
with open(sys.argv[1], "r+b") as file:
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, int(sys.argv[2]), int(sys.argv[3]), 0)
    found = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, lock))
    print(0 if found[0] == fcntl.F_UNLCK else found[4])
"""


def _holder(path: Path) -> int:
    """Return the process that holds SQLite's shared lock on a file, as another one sees it; 0: nobody does."""
    words = [sys.executable, "-I", "-S", "-c", _ASK, str(path), str(SHARED_FIRST), str(SHARED_BYTES)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def opened(tmp_path: Path) -> Database:
    """A database with a row, open in this process."""
    database = Database(
        tmp_path / "things.db",
        tables="CREATE TABLE IF NOT EXISTS thing (name TEXT)",
        name="Things",
        repair="Delete it.",
    )
    with database.transaction() as connection:
        connection.execute("INSERT INTO thing VALUES ('Zzneedle')")
    return database


def test_searching_the_file_does_not_give_up_the_lock_on_it(opened: Database, tmp_path: Path) -> None:
    """Without its lock another process takes the write-ahead log for left behind, and deletes it."""
    path = tmp_path / "things.db"
    assert opened.read("SELECT count(*) FROM thing") == [(1,)]
    assert _holder(path) == os.getpid()
    opened.scrub([b"Zznot-there"])
    assert _holder(path) == os.getpid()
    with path.open("rb"):  # so it would be seen: whoever closes the file loses the lock
        pass
    assert _holder(path) == 0


def test_what_was_deleted_is_searched_for_and_written_over(opened: Database, tmp_path: Path) -> None:
    with opened.transaction() as connection:
        connection.execute("DELETE FROM thing")
    opened.scrub([b"Zznot-there", b"Zzneedle"])
    assert b"Zzneedle" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert sqlite3.connect(tmp_path / "things.db").execute("SELECT count(*) FROM thing").fetchone() == (0,)
