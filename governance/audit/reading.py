"""Reading the audit: whether the chains hold, and who saw a patient."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from governance.audit.chain import TORN, WRITERS, Chain, Odd, chain_names
from governance.audit.records import Head, Record, Seals
from governance.audit.sink import registered
from vitalake.keys import KeyRing

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class ChainReport:
    """What was found of one chain.

    Attributes:
        writer: whose.
        records: how many hold, from the first one on.
        mac: of the last of them; kept elsewhere, it proves later that nothing was taken back.
        torn: crashes that tore a record; sealed off, nothing that was acknowledged is lost.
        unsealed: records or bytes behind the head: a crash came between. The writer's next record takes them in.
        problem: why it does not hold; empty: it does.
    """

    writer: str
    records: int = 0
    mac: str = ""
    torn: int = 0
    unsealed: int = 0
    problem: str = ""


@dataclass(slots=True)
class Report:
    """What was found of all chains."""

    chains: list[ChainReport] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Return whether every chain holds."""
        return not any(chain.problem for chain in self.chains)


@dataclass(frozen=True, slots=True)
class Seen:
    """One access.

    Attributes:
        at: when, UTC.
        actor: who.
        role: as what.
        action: what they did.
        writer: the part of the system that recorded it.
        patients: of how many patients it tells.
        detail: codes.
    """

    at: datetime
    actor: str
    role: str
    action: str
    writer: str
    patients: int
    detail: dict[str, str]


def verify_chain(folder: Path, keys: KeyRing, *, known: Mapping[str, tuple[int, str]] | None = None) -> Report:
    """Return, for every chain, whether every record is there, unchanged and in order.

    Args:
        folder: of the audit.
        keys: with the key ``audit``, in all versions.
        known: records and mac of chains from an earlier report that was kept elsewhere. Without it, files and heads
            that were all put back to an earlier moment look like that moment.
    """
    seals, kept, report = Seals(keys), dict(known or {}), Report()
    writers = registered(Chain(folder, WRITERS, seals), seals)
    there = chain_names(folder)
    for name in sorted(there | writers | kept.keys() | ({WRITERS} if there else set())):
        chain = _verify(Chain(folder, name, seals), seals, kept.get(name))
        if not chain.problem and chain.records and name not in writers | {WRITERS}:
            chain.problem = "not in the list of writers"
        report.chains.append(chain)
    return report


def _verify(chain: Chain, seals: Seals, known: tuple[int, str] | None) -> ChainReport:
    report, place = ChainReport(chain.writer), seals.begin(chain.writer)
    marks = {place.records: place}
    try:
        head, lines = _consistent(chain)
        if head is None:
            report.problem = "head is missing, changed or not ours"
            return report
        for step in chain.follow(lines, place):
            if isinstance(step, Odd):
                report.problem = "records are changed, or not in their order" if head.end > place.end else ""
                report.unsealed += 1
                break
            record, place = step
            report.torn += record.action == TORN
            report.unsealed += place.end > head.end
            if place.records in (head.records, *(known or ())[:1]):
                marks[place.records] = place
    except FileNotFoundError:
        report.problem = "file is missing"
        return report
    report.records, report.mac = place.records, place.mac
    sealed = marks.get(head.records)
    if not report.problem and (sealed is None or (sealed.end, sealed.mac) != (head.end, head.mac)):
        report.problem = f"{head.records - place.records} records are missing at its end"
    if not report.problem and known and (known[0] not in marks or marks[known[0]].mac != known[1]):
        report.problem = "not the chain that the earlier report speaks of"
    return report


def _consistent(chain: Chain) -> tuple[Head | None, Iterator[bytes]]:
    """Return head and lines of one moment: writers hold the lock until both are written."""
    file = chain.path.open("rb")
    fcntl.flock(file, fcntl.LOCK_SH)
    head, size = chain.head(), file.seek(0, 2)
    fcntl.flock(file, fcntl.LOCK_UN)
    return head, _lines(chain.path, size)


def _lines(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size and (line := file.readline(size)):
            size -= len(line)
            yield line


def read_all(folder: Path, keys: KeyRing) -> Iterator[tuple[str, Record]]:
    """Yield all records that hold, chain by chain, with their writers; whether all hold, ``verify_chain`` tells."""
    seals = Seals(keys)
    for name in sorted(chain_names(folder) - {WRITERS}):
        chain = Chain(folder, name, seals)
        if not chain.path.exists():
            continue
        with chain.path.open("rb") as file:
            for step in chain.follow(file, seals.begin(name)):
                if not isinstance(step, Odd) and step[0].action != TORN:
                    yield name, step[0]


def who_saw(folder: Path, keys: KeyRing, patient: str) -> list[Seen]:
    """Return every recorded access to a patient's data, oldest first.

    Args:
        folder: of the audit.
        keys: with the key ``audit``, in all versions.
        patient: the published pseudonym.
    """
    digests = Seals(keys).patients(patient)
    found = [_seen(writer, record) for writer, record in read_all(folder, keys) if digests & set(record.patients)]
    return sorted(found, key=lambda seen: seen.at)


def latest(folder: Path, keys: KeyRing, *, limit: int) -> list[Seen]:
    """Return the newest accesses of all chains, oldest first."""
    found = sorted((_seen(writer, record) for writer, record in read_all(folder, keys)), key=lambda seen: seen.at)
    return found[-limit:]


def _seen(writer: str, record: Record) -> Seen:
    at = _EPOCH + timedelta(microseconds=record.at)
    return Seen(at, record.actor, record.role, record.action, writer, len(record.patients), dict(record.detail))
