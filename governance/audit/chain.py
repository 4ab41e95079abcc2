"""One chain: a file of bound records and, beside it, its signed head."""

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
"""Of a record: action, actor, role, patients as they stand in it, codes."""

TORN = "torn"
ANCHOR = "anchor"
WRITERS = "writers"
"""The chain that names all others, so that one that was deleted shows."""

HEADS = "~"
"""Begins the names in a record's detail that are no codes of the event: ``~<chain>`` is where another chain stood."""

_MAC_SHOWN = 32
"""Hex digits of a mac that another chain names: nobody finds other records of the same."""


class StrayBytes:
    """Bytes of a chain's file that are no record."""

    def __init__(self) -> None:
        self.length, self.open, self._digest = 0, False, hashlib.sha256()

    def take(self, line: bytes) -> None:
        """Add a line; one without its end can only be the last."""
        self.length += len(line)
        self.open = not line.endswith(b"\n")
        self._digest.update(line)

    def describe(self) -> dict[str, str]:
        """Return what the record behind them says of them."""
        return {"bytes": str(self.length), "sha": self._digest.hexdigest()}


class Chain:
    """The chain of one writer; several processes may share it, a record at a time."""

    def __init__(self, folder: Path, writer: str, seals: Seals) -> None:
        self.writer, self._seals = writer, seals
        self.path, self.head_path = folder / f"{writer}.jsonl", folder / f"{writer}.head"
        self._beside = beside(folder)
        self._lock = threading.Lock()
        self._place: ChainPosition | None = None
        self._seen: tuple[int, int, int] | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    def head(self) -> Head | None:
        """Return the signed head; None: it is missing, or does not hold."""
        try:
            return self._seals.check(self.head_path.read_bytes(), writer=self.writer)
        except FileNotFoundError:
            return None

    def follow(
        self, lines: Iterable[bytes], place: ChainPosition
    ) -> Iterator[tuple[Record, ChainPosition] | StrayBytes]:
        """Yield records and the places behind them; last, what does not follow: torn by a crash, or changed.

        What a crash has torn is no flaw if the record behind it says so: the writer saw it and sealed it off.
        """
        odd = StrayBytes()
        for line in lines:
            step = self._seals.follow(line, after=ChainPosition(place.records, place.end + odd.length, place.mac))
            if step is None or (odd.length and (step[0].action != TORN or step[0].detail != odd.describe())):
                odd.take(line)
                continue
            odd, place = StrayBytes(), step[1]
            yield step
        if odd.length:
            yield odd

    # -- writing -------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make an empty chain with its head; what a crash left of making one is taken on.

        Raises:
            AuditBroken: there are records already.
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
            action: what.
            actor: who.
            role: as what.
            patients: whose data, by pseudonym.
            detail: codes.
            heads: of other chains, to be named in this record: it costs no write of its own.

        Raises:
            AuditBroken: the chain is not what its head says.
            OSError: it cannot be written.
        """
        hidden = tuple(self._seals.patient(patient) for patient in patients)
        self.append_all([(action, actor, role, hidden, detail or {})], heads=heads)

    def append_all(self, parts: Sequence[Parts], *, heads: Mapping[str, Head] | None = None) -> None:
        """Append records and sign the new head; one sync of each file, however many there are.

        Args:
            parts: action, actor, role, patients as they stand in records, codes.
            heads: of other chains, to be named in the first of them.

        Raises:
            AuditBroken: the chain is not what its head says.
            OSError: it cannot be written; a restart finds all of them, the first few, or none.
        """
        seen = {HEADS + name: mark(head) for name, head in (heads or {}).items() if name != self.writer}
        (action, actor, role, hidden, detail), *others = parts
        with self._lock, self._locked() as descriptor:
            place = self._here(descriptor)
            self._place = None  # if anything fails below, the file is looked at anew
            place = self._write(descriptor, place, [(action, actor, role, hidden, detail | seen), *others])
            self._place, self._seen = place, _identity(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Yield the open file, this process and thread alone with it."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            raise broken("its file is gone", writer=self.writer) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _here(self, descriptor: int) -> ChainPosition:
        """Return the place behind the last record, having sealed off what a crash has torn."""
        if self._place is not None and self._seen == _identity(descriptor):
            return self._place
        head, known = self.head(), self._known_beside()
        if head is None:
            raise broken("its head is gone or not ours", writer=self.writer)
        place = ChainPosition(head.records, head.end, head.mac)
        if not self._ends_there(descriptor, place):
            raise broken("records are missing or changed", writer=self.writer)
        if known is not None and os.fstat(descriptor).st_size < known.end:
            raise broken("it was put back to an earlier state", writer=self.writer)
        odd: StrayBytes | None = None
        with open(os.dup(descriptor), "rb") as file:
            file.seek(place.end)
            for step in self.follow(file, place):
                if isinstance(step, StrayBytes):
                    odd = step
                else:
                    place = step[1]
        return place if odd is None else self._seal_off(descriptor, place, odd)

    def _seal_off(self, descriptor: int, place: ChainPosition, odd: StrayBytes) -> ChainPosition:
        """Say in a record what of the file is no record: a crash tore it, or tore the sealing off of it."""
        if odd.open:
            _write_all(descriptor, b"\n")
            odd.take(b"\n")
        place = ChainPosition(place.records, place.end + odd.length, place.mac)
        return self._write(descriptor, place, [(TORN, "", "", (), odd.describe())])

    def _ends_there(self, descriptor: int, place: ChainPosition) -> bool:
        """Return whether the file has a record's end at the place; O(1), the whole is for ``audit verify``."""
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
        # The name is not synced: after a power cut the older head may be back, and the records behind it are taken in.
        staged.replace(self.head_path)
        self._keep_beside(line)

    def _known_beside(self) -> Head | None:
        """Return the head that is kept beside the audit's folder; None: none that says anything."""
        try:
            return self._seals.check((self._beside / self.writer).read_bytes(), writer=self.writer)
        except OSError:
            return None

    def _keep_beside(self, line: bytes) -> None:
        """Keep the head beside the audit's folder, too.

        Not synced: what a power cut takes of it was known before. Where that folder cannot be written, the record
        counts all the same.
        """
        with suppress(OSError):
            self._beside.mkdir(mode=0o700, exist_ok=True)
            staged = self._beside / f".{self.writer}"
            with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(line)
            staged.replace(self._beside / self.writer)


def beside(folder: Path) -> Path:
    """Return the folder beside an audit's in which the heads are kept, too."""
    return folder.with_name(f"{folder.name}.heads")


def mark(head: Head | ChainPosition) -> str:
    """Return how another chain names a place: how many records, and the mac of the last."""
    return f"{head.records} {head.mac[:_MAC_SHOWN]}"


def _identity(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def chain_names(folder: Path) -> set[str]:
    """Return the names of all chains of which a file is there."""
    with suppress(FileNotFoundError):
        return {path.stem for path in folder.iterdir() if path.suffix in (".jsonl", ".head") and path.stem[0] != "."}
    return set()
