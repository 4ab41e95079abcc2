"""The log of erasures: one line each, chained, in a file that is kept apart from the vault and its back-ups."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vitalake import clock
from vitalake.causes import unavailable
from vitalake.errors import PrivacyError, VitaLakeError
from vitalake.folders import sync_folder


class Entry(msgspec.Struct, frozen=True):
    """One erasure.

    Attributes:
        number: 1, 2, 3 …
        at_us: when.
        subject: whose, as hex; a keyed hash.
        certificate: the id of its certificate.
        previous: the hash of the entry before.
        hash: over all of the above, by a key; so no entry can be made up, changed or left out.
    """

    number: int
    at_us: int
    subject: str
    certificate: str
    previous: str
    hash: str = ""


class ErasureLog:
    """The log; read by many, written by who holds its lock."""

    def __init__(self, path: Path, secret: bytes) -> None:
        """Prepare; a log that is not there is empty.

        Args:
            path: the file.
            secret: makes the hashes.
        """
        self._path, self._secret = path, secret

    @property
    def name(self) -> str:
        """The file's name, for errors."""
        return self._path.name

    def entries(self) -> list[Entry]:
        """Return all entries, checked. A last line without its end was never written: its erasure was not begun.

        Raises:
            PrivacyError: a line is none, or the chain does not hold.
            ServiceUnavailable: the file cannot be read.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._refused(error) from None
        return self.parsed(content, where=self.name)

    def parsed(self, content: bytes, *, where: str) -> list[Entry]:
        """Return the entries of a log's content, or of a copy's, checked.

        Args:
            content: lines.
            where: for errors.

        Raises:
            PrivacyError: a line is none, or the chain does not hold.
        """
        found: list[Entry] = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                entry = msgspec.json.decode(line, type=Entry)
                bytes.fromhex(entry.subject)
            except (msgspec.DecodeError, ValueError):
                raise _broken(where, number) from None
            previous = found[-1].hash if found else ""
            if (entry.number, entry.previous) != (number, previous) or not self._is_ours(entry):
                raise _broken(where, number)
            found.append(entry)
        return found

    def take(self, entries: list[Entry]) -> int:
        """Append what the log lacks of a longer one, synced; return how many entries.

        Raises:
            ServiceUnavailable: it cannot be written; nothing was added.
        """
        if len(entries) <= len(self.entries()):
            return 0
        with self.locked():
            lacking = entries[len(self.entries()) :]
            if lacking:
                self._write(lacking)
        return len(lacking)

    def begin_again(self, entries: list[Entry]) -> bool:
        """Write a damaged log again, which stays beside it as ``….damaged``; return False where it had more lines.

        Raises:
            ServiceUnavailable: it cannot be written.
        """
        try:
            content = self._path.read_bytes()
            if content.count(b"\n") > len(entries):
                return False
            self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
        except OSError as error:
            raise self._refused(error) from None
        with self.locked():
            self._write(entries)
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else append meanwhile; makes the file.

        Raises:
            ServiceUnavailable: it cannot be written.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._refused(error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def append(self, after: list[Entry], subject: bytes, certificate: str) -> Entry:
        """Add an entry, synced to the disk; the caller holds the lock.

        Args:
            after: all entries there are.
            subject: who is erased.
            certificate: the id of the certificate.

        Raises:
            ServiceUnavailable: it cannot be written; nothing was added.
        """
        previous = after[-1].hash if after else ""
        entry = Entry(len(after) + 1, clock.now_us(), subject.hex(), certificate, previous)
        entry = msgspec.structs.replace(entry, hash=self._hash(entry))
        self._write([entry])
        return entry

    def _write(self, entries: list[Entry]) -> None:
        """Append lines; the caller holds the lock."""
        try:
            with self._path.open("r+b") as file:
                # What follows the last whole line is what a killed process left.
                end = file.read().rfind(b"\n") + 1
                file.seek(end)
                file.truncate()
                file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._path.parent)
        except OSError as error:
            raise self._refused(error) from None

    def _hash(self, entry: Entry) -> str:
        plain = msgspec.json.encode(msgspec.structs.replace(entry, hash=""))
        return hmac.digest(self._secret, b"erasure\0" + plain, hashlib.sha256).hex()

    def _is_ours(self, entry: Entry) -> bool:
        return hmac.compare_digest(self._hash(entry), entry.hash)

    def _refused(self, error: OSError) -> VitaLakeError:
        return unavailable(error, "Erasure log refuses", where=self.name, remedy="Check its disk and permissions.")


def _broken(where: str, number: int) -> PrivacyError:
    return PrivacyError(
        "Erasure log does not hold together",
        where=f"{where}, line {number}",
        remedy="It was changed, or is of another home. Run 'vitalake lake repair': it is written again from the lake's "
        "copy, if that has all of it; else restore it from its back-up (settings.erasures).",
    )


def lacking(name: str, *, entries: int, known: int, newest: str = "") -> PrivacyError:
    """Return what is said of a log that has not all that a vault has seen of it.

    Args:
        name: of the log.
        entries: how many it has.
        known: how many the vault has seen.
        newest: when the last of them was, and its certificate's id; empty: nobody knows.
    """
    since = f" of after {newest}" if newest else ""
    return PrivacyError(
        f"Erasure log lacks what the vault has seen ({entries} entries, {known} known)",
        where=name,
        remedy=f"Restore the log (settings.erasures), or erasures.jsonl in the lake or in settings.anchors, from a "
        f"back-up{since}; without it the erased could return.",
    )
