"""SQLite databases in WAL mode: synced at every commit, readable by their owner only."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vitalake.causes import unavailable
from vitalake.errors import LakeError, VitaLakeError
from vitalake.folders import folder_lock

BUSY_SECONDS = 30.0
_SEARCH = """
import mmap, sys
needles = [bytes.fromhex(line.decode()) for line in sys.stdin.buffer.read().split()]
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
    if any(content.find(needle) >= 0 for needle in needles):
        sys.stdout.write("found")
"""
"""Program that searches a file for any of the texts on standard input. The texts are in hexadecimal, and not on the
command line, because they can be a patient's."""

_PAUSE_SECONDS = 0.02


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
"""Primary result codes of a file that was damaged, or was not written by SQLite."""


_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
RELEASE = "Find the program that holds it open, such as a copy in progress, and end it; nothing is lost."


class DatabaseDamaged(LakeError):
    """A database's file is damaged: trying again does not help, and nothing is read from it."""


def refused(error: Exception, name: str, path: Path, *, repair: str) -> VitaLakeError:
    """Return the error to raise for a failure of SQLite.

    Args:
        error: the error that SQLite or the system raised.
        name: what the file is, such as ``Vault``.
        path: the file.
        repair: what to do when the file is damaged.
    """
    if isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGED:
        return DatabaseDamaged(f"{name} is damaged", where=path.name, remedy=repair)
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        # Our own statements are correct, so a table or column that they name is missing.
        return DatabaseDamaged(f"{name} is damaged (it has other tables)", where=path.name, remedy=repair)
    if isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _LOCKED:
        return unavailable(error, f"{name} refuses", where=path.name, remedy=RELEASE)
    if path.is_dir():  # SQLite only says that it cannot open the file
        return DatabaseDamaged(f"{name} is damaged (a folder is in its place)", where=path.name, remedy=repair)
    return unavailable(error, f"{name} refuses", where=path.name, remedy="Check its disk and permissions.")


def check_integrity(path: Path, name: str, *, repair: str) -> None:
    """Check a database's file for damage, without changing it; a file that does not exist passes.

    SQLite compares structure, order and indexes with each other. It does not notice a flipped bit within a value.

    Raises:
        DatabaseDamaged: the file is damaged.
        ServiceUnavailable: the file cannot be read.
    """
    if not path.exists():
        return
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise DatabaseDamaged(f"{name} is damaged (it is empty)", where=path.name, remedy=repair)
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            result = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except (sqlite3.Error, OSError) as error:
        raise refused(error, name, path, repair=repair) from None
    if result != ("ok",):
        raise DatabaseDamaged(f"{name} is damaged", where=path.name, remedy=repair)


class Database:
    """An open database; one thread at a time may use it, and any number of processes may open the same file.

    Attributes:
        connection: for reading; in autocommit mode.
    """

    def __init__(
        self, path: Path, *, tables: str, name: str, repair: str, secure_delete: bool = False, derived: bool = False
    ) -> None:
        """Open the file, or make it.

        Args:
            path: the file; its folder exists.
            tables: statements that create missing tables.
            name: what the file is, in errors, such as ``Vault``.
            repair: what to do when the file is damaged.
            secure_delete: whether SQLite overwrites deleted data with zeros.
            derived: whether its content can be made again from other data. Then, if the file is gone, a write-ahead
                log that was left beside it is deleted, and the database begins empty.

        Raises:
            DatabaseDamaged: the file is damaged, or is not an SQLite database; every other method raises this too.
            ServiceUnavailable: the file cannot be opened.
        """
        self._name, self._path, self._repair = name, path, repair
        try:
            if derived:
                _begin(path)
            path.touch(mode=0o600)
            self.connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._write_ahead()
            self.connection.execute("PRAGMA synchronous=FULL")
            if secure_delete:
                self.connection.execute("PRAGMA secure_delete=ON")
            self.connection.executescript(tables)
            self._identity = self._files()
        except (sqlite3.Error, OSError) as error:
            raise self._refused(error) from None

    def moved(self) -> bool:
        """Return whether the file or its write-ahead log was deleted or replaced after it was opened.

        SQLite does not notice that: writes to the old file are lost, and reads go on giving its old content. The check
        takes a few microseconds.
        """
        return self._files() != self._identity

    def _files(self) -> tuple[tuple[int, int] | None, ...]:
        """Return device and inode of the database's file and of its write-ahead log, as they are now."""
        found: list[tuple[int, int] | None] = []
        for path in (self._path, self._path.with_name(f"{self._path.name}-wal")):
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino))
        return tuple(found)

    def _write_ahead(self) -> None:
        """Turn the write-ahead log on; try again while another process does the same: SQLite itself does not wait."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, with the connection: all of its changes are committed, or none.

        No other process can write meanwhile.

        Raises:
            ServiceUnavailable: the file cannot be written.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one query.

        Raises:
            ServiceUnavailable: the file cannot be read.
        """
        try:
            return self.connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def scrub(self, needles: Sequence[bytes]) -> None:
        """Make sure that nothing which was deleted stays in the file or in its write-ahead log.

        Args:
            needles: texts that must not be found any more; empty: the whole file is rewritten without a search.

        Raises:
            ServiceUnavailable: a long read does not end, or the file cannot be written.
        """
        try:
            empty_log(self.connection)
            if not needles or self._holds_any(needles):
                # When SQLite splits a page, copies of rows stay in its free part: secure_delete does not erase them.
                self.connection.execute("PRAGMA temp_store=MEMORY")
                self.connection.execute("VACUUM")
                empty_log(self.connection)
        except (sqlite3.Error, OSError, subprocess.CalledProcessError) as error:
            raise self._refused(error) from None

    def _holds_any(self, needles: Sequence[bytes]) -> bool:
        """Return whether the file contains any of some texts."""
        # Another process reads the file. If this one opened and closed it, POSIX would drop SQLite's locks on it (see
        # sqlite.org, "How To Corrupt An SQLite Database File", 2.2), and a third process could then remove the
        # write-ahead log while this connection uses it.
        command = [sys.executable, "-I", "-S", "-c", _SEARCH, str(self._path)]
        given = b"\n".join(needle.hex().encode() for needle in needles)
        return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout == b"found"

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _refused(self, error: Exception) -> VitaLakeError:
        return refused(error, self._name, self._path, repair=self._repair)


def _begin(path: Path) -> None:
    """Make the file if it is not there, and delete a write-ahead log of an earlier file: SQLite refuses such a pair."""
    with folder_lock(path.parent):  # of several processes that find no file, only one may delete the old log
        if not path.exists():
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.touch(mode=0o600)


def empty_log(connection: sqlite3.Connection) -> None:
    """Move the content of the write-ahead log into the database's file, and truncate the log.

    Raises:
        sqlite3.OperationalError: a long read does not end.
    """
    # SQLite waits for readers by itself, but not for another checkpoint.
    deadline = time.monotonic() + connection.execute("PRAGMA busy_timeout").fetchone()[0] / 1000
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError
        time.sleep(_PAUSE_SECONDS)
