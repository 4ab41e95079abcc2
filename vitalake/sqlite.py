"""Small transactional files: SQLite in WAL mode, synced at every commit, for their owner's eyes only."""

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
"""Says whether a file holds one of the texts on standard input, in hexadecimal: they are patients'."""

_PAUSE_SECONDS = 0.02


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
"""Primary result codes of a file that is not what SQLite has written."""


_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
RELEASE = "Find what holds it open, a copy or another program perhaps, and end that; nothing is lost."


class DatabaseDamaged(LakeError):
    """A database's file is damaged: trying again does not help, and nothing is read from it."""


def refused(error: Exception, name: str, path: Path, *, repair: str) -> VitaLakeError:
    """Return what to say of a failure of SQLite.

    Args:
        error: as SQLite or the system raised it.
        name: of what the file is, such as ``Vault``.
        path: the file.
        repair: what to do when the file is damaged.
    """
    if isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGED:
        return DatabaseDamaged(f"{name} is damaged", where=path.name, remedy=repair)
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        # Our own statements are right: a table or column they name is missing.
        return DatabaseDamaged(f"{name} is damaged (it has other tables)", where=path.name, remedy=repair)
    if isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _HELD:
        return unavailable(error, f"{name} refuses", where=path.name, remedy=RELEASE)
    if path.is_dir():  # SQLite says only that it cannot open it
        return DatabaseDamaged(f"{name} is damaged (a folder is in its place)", where=path.name, remedy=repair)
    return unavailable(error, f"{name} refuses", where=path.name, remedy="Check its disk and permissions.")


def look_at(path: Path, name: str, *, repair: str) -> None:
    """Return if a database's file is whole, as far as SQLite can tell, or if there is none; nothing is changed.

    Structure, order and indexes are held against each other. A flipped bit within a value stays unseen.

    Raises:
        DatabaseDamaged: it is not.
        ServiceUnavailable: it cannot be read.
    """
    if not path.exists():
        return
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise DatabaseDamaged(f"{name} is damaged (it is empty)", where=path.name, remedy=repair)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as there:
            found = there.execute("PRAGMA integrity_check(1)").fetchone()
    except (sqlite3.Error, OSError) as error:
        raise refused(error, name, path, repair=repair) from None
    if found != ("ok",):
        raise DatabaseDamaged(f"{name} is damaged", where=path.name, remedy=repair)


class Database:
    """An open file; used by one thread at a time, by any number of processes.

    Attributes:
        connection: for reading; in autocommit.
    """

    def __init__(
        self, path: Path, *, tables: str, name: str, repair: str, secure_delete: bool = False, derived: bool = False
    ) -> None:
        """Open the file, or make it.

        Args:
            path: the file; its folder exists.
            tables: statements that make what is missing.
            name: in errors, such as ``Vault``.
            repair: what to do when the file is damaged.
            secure_delete: whether what is deleted is overwritten with zeros.
            derived: whether what it holds can be made again: where the file is gone, what lies beside it goes too.

        Raises:
            DatabaseDamaged: the file is none of SQLite's, or not as it was written; so says every call.
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
        """Return whether the file, or its write-ahead log, is no longer the one that was opened; a few microseconds.

        What is written to a file that was deleted or replaced goes nowhere, and what is read from it stays as it was:
        SQLite notices neither.
        """
        return self._files() != self._identity

    def _files(self) -> tuple[tuple[int, int] | None, ...]:
        """Return which files the path and the log beside it name now."""
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
        """Turn the write-ahead log on; SQLite does not wait for another process that does the same this moment."""
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
        """Give the connection, nobody else writing; all that the block does is committed, or none of it.

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
        """See that nothing which was deleted stays in the file or in its write-ahead log.

        Args:
            needles: what must not be found any more; none: everything is written anew.

        Raises:
            ServiceUnavailable: somebody reads on and on, or the file cannot be written.
        """
        try:
            empty_log(self.connection)
            if not needles or self._holds_any(needles):
                # A page that was split keeps copies of its rows in its free part, which secure_delete does not know of.
                self.connection.execute("PRAGMA temp_store=MEMORY")
                self.connection.execute("VACUUM")
                empty_log(self.connection)
        except (sqlite3.Error, OSError, subprocess.CalledProcessError) as error:
            raise self._refused(error) from None

    def _holds_any(self, needles: Sequence[bytes]) -> bool:
        # In a process of its own: one that closes the file gives up SQLite's locks on it (POSIX; sqlite.org's "How To
        # Corrupt", 2.2), and another process could then take the write-ahead log away under this connection.
        words = [sys.executable, "-I", "-S", "-c", _SEARCH, str(self._path)]
        given = b"\n".join(needle.hex().encode() for needle in needles)
        return subprocess.run(words, input=given, stdout=subprocess.PIPE, check=True).stdout == b"found"

    def close(self) -> None:
        """Close it."""
        self.connection.close()

    def _refused(self, error: Exception) -> VitaLakeError:
        return refused(error, self._name, self._path, repair=self._repair)


def _begin(path: Path) -> None:
    """Make the file if it is not there, without the write-ahead log of one that was: SQLite would refuse both."""
    with folder_lock(path.parent):  # of several that see none, one deletes what lies there
        if not path.exists():
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.touch(mode=0o600)


def empty_log(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file, and cut it off.

    Raises:
        sqlite3.OperationalError: somebody reads on and on.
    """
    # SQLite waits for readers by itself, but not for another checkpoint.
    deadline = time.monotonic() + connection.execute("PRAGMA busy_timeout").fetchone()[0] / 1000
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError
        time.sleep(_PAUSE_SECONDS)
