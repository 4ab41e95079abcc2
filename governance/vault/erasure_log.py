"""The erasure log: one chained line for each erasure, in a file that is kept apart from the vault and its back-ups."""

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
        at_us: when, in microseconds since 1970.
        subject: of the patient: a keyed hash, hex.
        certificate: the id of its certificate.
        previous: the hash of the entry before; empty in the first.
        hash: HMAC of the fields above: nobody without the key can invent, change or leave out an entry.
    """

    number: int
    at_us: int
    subject: str
    certificate: str
    previous: str
    hash: str = ""


class ErasureLog:
    """The log; any process may read it, and the holder of its lock may write."""

    def __init__(self, path: Path, secret: bytes) -> None:
        """Prepare; a file that does not exist is an empty log.

        Args:
            path: the file.
            secret: of the key ``vault``, for the hashes.
        """
        self._path, self._secret = path, secret

    @property
    def name(self) -> str:
        """The file's name, for errors."""
        return self._path.name

    def entries(self) -> list[Entry]:
        """Return all entries, after checking the chain.

        A last line without its line end is ignored: the write was interrupted, and that erasure did not begin.

        Raises:
            PrivacyError: a line is not an entry, or the chain is broken.
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
        """Return the entries in the content of a log or of a copy, after checking the chain.

        Args:
            content: of the file.
            where: the file's name for errors.

        Raises:
            PrivacyError: a line is not an entry, or the chain is broken.
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

    def extend(self, entries: list[Entry]) -> int:
        """Append the entries of a longer log that this one lacks, and sync; return how many were appended.

        Raises:
            ServiceUnavailable: it cannot be written; nothing was added.
        """
        if len(entries) <= len(self.entries()):
            return 0
        with self.locked():
            missing = entries[len(self.entries()) :]
            if missing:
                self._write(missing)
        return len(missing)

    def rewrite(self, entries: list[Entry]) -> bool:
        """Write a damaged log again, and keep the damaged file as ``….damaged``.

        Returns:
            False, with nothing changed, if the damaged log has more lines than there are entries.

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
        """Keep other processes from appending; create the file if it does not exist.

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
        """Append an entry and sync it to disk; the caller holds the lock.

        Args:
            after: all entries of the log.
            subject: of the erased patient.
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
                # A process that was killed may have left part of a line behind the last whole one.
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
        remedy = "Check its disk and permissions."
        return unavailable(error, "Erasure log cannot be used", where=self.name, remedy=remedy)


def _broken(where: str, number: int) -> PrivacyError:
    return PrivacyError(
        "Erasure log is damaged",
        where=f"{where}, line {number}",
        remedy="A line was changed, or the log belongs to another home. Run 'vitalake lake repair': it writes the log "
        "again if the lake's copy is complete. Otherwise restore the log from its back-up (settings.erasures).",
    )


def missing_entries(name: str, *, entries: int, known: int, newest: str = "") -> PrivacyError:
    """Return the error of a log that lacks entries which the vault has applied, or has others in their place.

    Args:
        name: of the log.
        entries: how many it has.
        known: how many the vault has applied.
        newest: when the last of them was applied, and its certificate's id; empty: unknown.
    """
    since = f" made after {newest}" if newest else ""
    lacks = f"lacks entries that the vault has applied ({entries} in the log, {known} in the vault)"
    other = f"has other entries than the {known} that the vault has applied"
    return PrivacyError(
        f"Erasure log {lacks if entries < known else other}",
        where=name,
        remedy=f"Restore the log (settings.erasures), or erasures.jsonl in the lake or in settings.anchors, from a "
        f"back-up{since}. Without them, erased patients could come back.",
    )
