"""Reading the audit: whether the chains hold, and who saw a patient."""

from __future__ import annotations

import fcntl
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from governance.audit.anchors import Anchors, anchors_of, furthest
from governance.audit.chain import ANCHOR, HEADS, TORN, WRITERS, Chain, StrayBytes, chain_names, mark
from governance.audit.records import ChainPosition, Head, Record, Seals
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
    """What was found of all chains.

    Attributes:
        chains: each one.
        problems: what is wrong with the audit as a whole, or with what is kept of it elsewhere.
        anchored_at: when the heads were last kept on other storage; None: never, or nowhere.
    """

    chains: list[ChainReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    anchored_at: datetime | None = None

    @property
    def whole(self) -> bool:
        """Return whether every chain holds, and nothing is missing."""
        return not self.problems and not any(chain.problem for chain in self.chains)


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


def verify_chain(
    folder: Path,
    keys: KeyRing,
    *,
    known: Mapping[str, tuple[int, str]] | None = None,
    outside: Path | None = None,
) -> Report:
    """Return, for every chain, whether every record is there, unchanged and in order, and none was put back.

    Args:
        folder: of the audit.
        keys: with the key ``audit``, in all versions.
        known: records and mac of chains from an earlier report that was kept elsewhere. Without it, and without a
            folder outside, files and heads that were *all* put back to an earlier moment look like that moment.
        outside: the folder on other storage where heads are kept; None: there is none.
    """
    seals, report = Seals(keys), Report()
    writers = set[str]()
    with suppress(OSError):  # then that chain's own report says so
        writers = registered(Chain(folder, WRITERS, seals), seals)
    there, anchors = chain_names(folder), anchors_of(folder, outside)
    expected = _Expected()
    for name, head in furthest(anchors, seals).items():
        expected.add(name, "what is kept beside the audit or outside", mark(head))
    for name, (records, mac) in (known or {}).items():
        expected.add(name, "the earlier report", mark(ChainPosition(records, 0, mac)))
    found = {}
    for name in sorted(there | writers | expected.names | ({WRITERS} if there else set())):
        found[name] = _verify(Chain(folder, name, seals), seals, expected)
        if not found[name].problem and found[name].records and name not in writers | {WRITERS}:
            found[name].problem = "not in the list of writers"
    for name, chain in found.items():
        if not chain.problem and expected.contradicts(name):  # or others have named what was recorded meanwhile
            chain = _verify(Chain(folder, name, seals), seals, expected)
        chain.problem = chain.problem or expected.contradicts(name)
        report.chains.append(chain)
    report.problems += _damaged(anchors[0], seals)
    if expected.names and not there:
        report.problems.append("there is no audit, where there was one")
    if there and outside is not None:
        _look_outside(report, anchors[-1], seals)
    return report


class _Expected:
    """What is known of chains besides their own files: how many records there were, and the mac of the last."""

    def __init__(self) -> None:
        self._marks: dict[str, dict[int, tuple[str, str]]] = {}
        self._met: dict[str, array[int]] = {}  # eight bytes a record: chains grow for ever

    @property
    def names(self) -> set[str]:
        """Return the chains that something is known of."""
        return set(self._marks)

    def add(self, name: str, whence: str, text: str) -> None:
        """Take note of what somebody says of a chain.

        Args:
            name: the chain.
            whence: who says so, for people.
            text: as ``mark`` writes it.
        """
        number, _, mac = text.partition(" ")
        self._marks.setdefault(name, {}).setdefault(int(number), (mac, whence))

    def begin(self, name: str) -> None:
        """Forget what was met of a chain: it is read from its beginning."""
        self._met[name] = array("Q")

    def take(self, name: str, record: Record, place: ChainPosition) -> None:
        """Take a record that holds: what it says of other chains, and where its own chain stands behind it."""
        for other, text in record.detail.items():
            if other.startswith(HEADS):
                self.add(other.removeprefix(HEADS), f"chain {name}", text)
        self._met[name].append(_start(place.mac))

    def contradicts(self, name: str) -> str:
        """Return what is said of a chain that its own records contradict; empty: nothing."""
        met = self._met[name]
        for number, (mac, whence) in sorted(self._marks.get(name, {}).items(), reverse=True):
            if number and (number > len(met) or met[number - 1] != _start(mac)):
                return f"put back to an earlier state, or another chain: {whence} knows {number} records of it"
        return ""


def _start(mac: str) -> int:
    """Return the first eight bytes of a mac."""
    return int(mac[:16], 16)


def _damaged(anchor: Anchors, seals: Seals) -> list[str]:
    """Return what is to be said of kept heads that are none: they vouch for nothing, and neither does their absence."""
    where = anchor.folder.name
    return [
        f"{where}/{name} is not what was written: delete it, the next record of the chain writes it again"
        for name in anchor.damaged(seals)
    ]


def _look_outside(report: Report, anchor: Anchors, seals: Seals) -> None:
    """Say when the heads were last kept on other storage, and where they are not."""
    try:
        heads = anchor.heads(seals)
    except OSError as error:
        report.problems.append(f"what is kept outside cannot be read ({error.strerror})")
        return
    report.problems += [f"outside, {problem}" for problem in _damaged(anchor, seals)]
    if not heads:
        report.problems.append("nothing of the audit is kept outside (settings.anchors)")
        return
    report.anchored_at = _EPOCH + timedelta(microseconds=max(head.at for head in heads.values()))


def _verify(chain: Chain, seals: Seals, expected: _Expected) -> ChainReport:
    report, place = ChainReport(chain.writer), seals.begin(chain.writer)
    sealed = place
    expected.begin(chain.writer)
    try:
        head, lines = _consistent(chain)
        if head is None:
            report.problem = "head is missing, changed or not ours"
            return report
        for step in chain.follow(lines, place):
            if isinstance(step, StrayBytes):
                report.problem = "records are changed, or not in their order" if head.end > place.end else ""
                report.unsealed += 1
                break
            record, place = step
            expected.take(chain.writer, record, place)
            report.torn += record.action == TORN
            report.unsealed += place.end > head.end
            sealed = place if place.records == head.records else sealed
    except FileNotFoundError:
        report.problem = "file is missing"
        return report
    except OSError as error:  # something else lies in its place, or the disk cannot read it
        report.problem = f"a file of it cannot be read ({error.strerror})"
        return report
    report.records, report.mac = place.records, place.mac
    if not report.problem and (sealed.end, sealed.mac) != (head.end, head.mac):
        report.problem = f"{head.records - place.records} records are missing at its end"
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
                if not isinstance(step, StrayBytes) and step[0].action not in (TORN, ANCHOR):
                    yield name, step[0]


def who_saw(folder: Path, keys: KeyRing, *pseudonyms: str) -> list[Seen]:
    """Return every recorded access to a patient's data, oldest first.

    Args:
        folder: of the audit.
        keys: with the key ``audit``, in all versions.
        pseudonyms: all that the patient has or had: a record knows the one of its day only.
    """
    seals = Seals(keys)
    digests = set().union(*map(seals.patients, pseudonyms))
    found = [_seen(writer, record) for writer, record in read_all(folder, keys) if digests & set(record.patients)]
    return sorted(found, key=lambda seen: seen.at)


def latest(folder: Path, keys: KeyRing, *, limit: int) -> list[Seen]:
    """Return the newest accesses of all chains, oldest first."""
    found = sorted((_seen(writer, record) for writer, record in read_all(folder, keys)), key=lambda seen: seen.at)
    return found[-limit:]


def _seen(writer: str, record: Record) -> Seen:
    at = _EPOCH + timedelta(microseconds=record.at)
    codes = {name: text for name, text in record.detail.items() if not name.startswith(HEADS)}
    return Seen(at, record.actor, record.role, record.action, writer, len(record.patients), codes)
