"""One audit chain: a file of records, each bound to the one before it by a MAC, and a file with the signed head."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from governance.audit.records import ChainPosition, Head, Record, Seals, broken
from vitalake import clock
from vitalake.folders import sync_folder

Parts = tuple[str, str, str, tuple[str, ...], dict[str, str]]
"""The parts of a record: action, actor, role, patients' digests, codes."""

TORN = "torn"
ANCHOR = "anchor"
WRITERS = "writers"
"""The chain in which all others are registered, so that a deleted one is noticed."""

HEADS = "~"
"""The prefix of names in a record's detail that are not of the event: ``~<chain>`` says where another chain stood."""

_MAC_SHOWN = 32
"""Hex digits of a MAC that another chain names: 128 bits, so nobody can find other records with the same ones."""


class StrayBytes:
    """Bytes of a chain's file that are not valid records."""

    def __init__(self) -> None:
        self.length, self.open, self._digest = 0, False, hashlib.sha256()

    def take(self, line: bytes) -> None:
        """Add a line; only the last one can lack its line break."""
        self.length += len(line)
        self.open = not line.endswith(b"\n")
        self._digest.update(line)

    def describe(self) -> dict[str, str]:
        """Return the detail of the record that seals these bytes off."""
        return {"bytes": str(self.length), "sha": self._digest.hexdigest()}


class Chain:
    """The chain of one writer; several processes may share it, a record at a time."""

    def __init__(self, folder: Path, writer: str, seals: Seals) -> None:
        self.writer, self._seals = writer, seals
        self.path, self.head_path = folder / f"{writer}.jsonl", folder / f"{writer}.head"
        self._heads_folder = heads_folder(folder)
        self._lock = threading.Lock()
        self._end: ChainPosition | None = None
        self._identity_at_end: tuple[int, int, int] | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    def head(self) -> Head | None:
        """Return the signed head; None: it is missing or not valid."""
        try:
            return self._seals.check(self.head_path.read_bytes(), writer=self.writer)
        except FileNotFoundError:
            return None

    def follow(
        self, lines: Iterable[bytes], place: ChainPosition
    ) -> Iterator[tuple[Record, ChainPosition] | StrayBytes]:
        """Yield records, each with the position after it; at the end the bytes that are not valid records, if any.

        A crash may have torn a record. That is not a flaw if the next record describes these bytes: then the writer has
        noticed them and sealed them off.
        """
        stray = StrayBytes()
        for line in lines:
            step = self._seals.follow(line, after=ChainPosition(place.records, place.end + stray.length, place.mac))
            if step is None or (stray.length and (step[0].action != TORN or step[0].detail != stray.describe())):
                stray.take(line)
                continue
            stray, place = StrayBytes(), step[1]
            yield step
        if stray.length:
            yield stray

    # -- writing -------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Create an empty chain with its head; complete one that a crash has left half created.

        Raises:
            AuditBroken: the file has records already.
            OSError: the folder cannot be written.
        """
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size:
                raise broken("records in a chain that was never begun", writer=self.writer)
            self._write_head(self._seals.begin(self.writer))
            sync_folder(self.path.parent)
        finally:
            os.close(descriptor)

    def append(
        self,
        action: str,
        *,
        actor: str = "",
        role: str = "",
        patients: Iterable[str] = (),
        detail: dict[str, str] | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        """Append a record and sign the new head, both durable before this returns.

        Args:
            action: what was done.
            actor: who acted.
            role: the role in which they acted.
            patients: the pseudonyms of the patients whose data it was.
            detail: codes.
            heads: of other chains, to be named in this record; this needs no write of its own.

        Raises:
            AuditBroken: the chain does not match its head.
            OSError: it cannot be written.
        """
        hidden = tuple(self._seals.patient(patient) for patient in patients)
        self.append_all([(action, actor, role, hidden, detail or {})], heads=heads)

    def append_all(self, parts: Sequence[Parts], *, heads: Mapping[str, Head] | None = None) -> None:
        """Append records and sign the new head; one sync of each file, however many there are.

        Args:
            parts: the parts of each record.
            heads: of other chains, to be named in the first record.

        Raises:
            AuditBroken: the chain does not match its head.
            OSError: it cannot be written; a restart finds all of the records, the first few, or none.
        """
        marks = {HEADS + name: mark(head) for name, head in (heads or {}).items() if name != self.writer}
        (action, actor, role, hidden, detail), *others = parts
        with self._lock, self._locked() as descriptor:
            place = self._find_end(descriptor)
            self._end = None  # if anything fails below, the next record reads the file again
            place = self._write(descriptor, place, [(action, actor, role, hidden, detail | marks), *others])
            self._end, self._identity_at_end = place, _identity(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Yield the open file with an exclusive lock."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            raise broken("its file is gone", writer=self.writer) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _find_end(self, descriptor: int) -> ChainPosition:
        """Return the position after the last record; first seal off what a crash has torn."""
        if self._end is not None and self._identity_at_end == _identity(descriptor):
            return self._end
        head, known = self.head(), self._copied_head()
        if head is None:
            raise broken("its head is gone or not signed with this home's key", writer=self.writer)
        place = ChainPosition(head.records, head.end, head.mac)
        if not self._ends_there(descriptor, place):
            raise broken("records are missing or changed", writer=self.writer)
        if known is not None and os.fstat(descriptor).st_size < known.end:
            raise broken("it was put back to an earlier state", writer=self.writer)
        stray: StrayBytes | None = None
        with open(os.dup(descriptor), "rb") as file:
            file.seek(place.end)
            for step in self.follow(file, place):
                if isinstance(step, StrayBytes):
                    stray = step
                else:
                    place = step[1]
        return place if stray is None else self._seal_off(descriptor, place, stray)

    def _seal_off(self, descriptor: int, place: ChainPosition, stray: StrayBytes) -> ChainPosition:
        """Write a record that describes the stray bytes before it: a crash tore a record, or an earlier sealing off."""
        if stray.open:
            _write_all(descriptor, b"\n")
            stray.take(b"\n")
        place = ChainPosition(place.records, place.end + stray.length, place.mac)
        return self._write(descriptor, place, [(TORN, "", "", (), stray.describe())])

    def _ends_there(self, descriptor: int, place: ChainPosition) -> bool:
        """Return whether a record with this MAC ends at this position; O(1), ``audit verify`` checks the whole file."""
        if place == self._seals.begin(self.writer):
            return True
        ending = f'"mac":"{place.mac}"}}\n'.encode()
        return os.pread(descriptor, len(ending), place.end - len(ending)) == ending

    def _write(self, descriptor: int, place: ChainPosition, parts: Sequence[Parts]) -> ChainPosition:
        lines = []
        for part in parts:
            record = Record(place.records + 1, clock.now_us(), *part, self._seals.current)
            line, place = self._seals.line(record, after=place)
            lines.append(line)
        _write_all(descriptor, b"".join(lines))
        os.fsync(descriptor)
        self._write_head(place)
        return place

    def _write_head(self, place: ChainPosition) -> None:
        head = Head(self.writer, place.records, place.end, place.mac, clock.now_us(), self._seals.current)
        staged, line = self.head_path.with_name(f".{self.writer}.head"), self._seals.sign(head)
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # The rename is not synced: after a power cut the older head may be back; the next record's head then covers the
        # records after it again.
        staged.replace(self.head_path)
        self._copy_head(line)

    def _copied_head(self) -> Head | None:
        """Return the copy of the head next to the audit's folder; None: there is no valid one."""
        try:
            return self._seals.check((self._heads_folder / self.writer).read_bytes(), writer=self.writer)
        except OSError:
            return None

    def _copy_head(self, line: bytes) -> None:
        """Copy the head into the folder next to the audit's.

        The copy is not synced: after a power cut there is an older copy at worst. If the folder cannot be written, the
        record counts nevertheless.
        """
        with suppress(OSError):
            self._heads_folder.mkdir(mode=0o700, exist_ok=True)
            staged = self._heads_folder / f".{self.writer}"
            with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(line)
            staged.replace(self._heads_folder / self.writer)


def heads_folder(folder: Path) -> Path:
    """Return the folder next to an audit's that holds copies of the heads."""
    return folder.with_name(f"{folder.name}.heads")


def mark(head: Head | ChainPosition) -> str:
    """Return the text by which another chain names a position: the number of records, and the MAC of the last."""
    return f"{head.records} {head.mac[:_MAC_SHOWN]}"


def _identity(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def chain_names(folder: Path) -> set[str]:
    """Return the names of all chains that have at least one file."""
    with suppress(FileNotFoundError):
        return {path.stem for path in folder.iterdir() if path.suffix in (".jsonl", ".head") and path.stem[0] != "."}
    return set()
