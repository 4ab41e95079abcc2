"""Verifies the audit: every chain is complete, unchanged, in order, and was not rolled back."""

from __future__ import annotations

import fcntl
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from governance.audit.anchors import Anchors, anchors_of, furthest
from governance.audit.chain import HEADS, TORN, WRITERS, Chain, StrayBytes, chain_names, mark
from governance.audit.records import ChainPosition, Head, Record, Seals
from governance.audit.sink import registered
from vitalake.keys import KeyRing

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class ChainReport:
    """The result of verifying one chain.

    Attributes:
        writer: the name of the chain.
        records: how many records are valid, from the first one on.
        mac: the MAC of the last of them. If you keep it elsewhere, a later verification notices a rolled-back chain.
        torn: how many crashes tore a record; each was sealed off, and no acknowledged record was lost.
        unsealed: records or bytes after the head: a crash came before the head was written. The writer's next record
            includes them.
        problem: why the chain is not valid; empty: it is valid.
    """

    writer: str
    records: int = 0
    mac: str = ""
    torn: int = 0
    unsealed: int = 0
    problem: str = ""


@dataclass(slots=True)
class Report:
    """The result of verifying all chains.

    Attributes:
        chains: one report each.
        problems: what is wrong with the audit as a whole, or with the copies of its heads.
        anchored_at: when the heads were last copied to other storage; None: never, or there is none.
    """

    chains: list[ChainReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    anchored_at: datetime | None = None

    @property
    def whole(self) -> bool:
        """Return whether every chain is valid, and nothing is missing."""
        return not self.problems and not any(chain.problem for chain in self.chains)


def verify_chain(
    folder: Path,
    keys: KeyRing,
    *,
    known: Mapping[str, tuple[int, str]] | None = None,
    outside: Path | None = None,
) -> Report:
    """Verify for every chain that its records are complete, unchanged and in order, and that it was not rolled back.

    Args:
        folder: of the audit.
        keys: with the key ``audit``, in all versions.
        known: chain → number of records and MAC, from an earlier report that was kept elsewhere. Without it, and
            without a folder outside, nobody can notice that *all* files and heads were put back to an earlier moment.
        outside: the folder on other storage where heads are kept; None: there is none.
    """
    seals, report = Seals(keys), Report()
    writers = set[str]()
    with suppress(OSError):  # the report of the chain of writers will name the error
        writers = registered(Chain(folder, WRITERS, seals), seals)
    present, anchors = chain_names(folder), anchors_of(folder, outside)
    expected = _Expected()
    for name, head in furthest(anchors, seals).items():
        expected.add(name, "what is kept beside the audit or outside", mark(head))
    for name, (records, mac) in (known or {}).items():
        expected.add(name, "the earlier report", mark(ChainPosition(records, 0, mac)))
    reports = {}
    for name in sorted(present | writers | expected.names | ({WRITERS} if present else set())):
        reports[name] = _verify(Chain(folder, name, seals), seals, expected)
        if not reports[name].problem and reports[name].records and name not in writers | {WRITERS}:
            reports[name].problem = "not in the list of writers"
    for name, chain in reports.items():
        # Verify it once more: other chains may name records that were added after this one was read.
        if not chain.problem and expected.contradicts(name):
            chain = _verify(Chain(folder, name, seals), seals, expected)
        chain.problem = chain.problem or expected.contradicts(name)
        report.chains.append(chain)
    report.problems += _damaged(anchors[0], seals)
    if expected.names and not present:
        report.problems.append("there is no audit, where there was one")
    if present and outside is not None:
        _look_outside(report, anchors[-1], seals)
    return report


class _Expected:
    """What other places say about chains: how many records a chain had, and the MAC of the last."""

    def __init__(self) -> None:
        self._marks: dict[str, dict[int, tuple[str, str]]] = {}
        self._macs: dict[str, array[int]] = {}  # eight bytes for each record, because chains grow for ever

    @property
    def names(self) -> set[str]:
        """Return the names of the chains that another place mentions."""
        return set(self._marks)

    def add(self, name: str, source: str, text: str) -> None:
        """Add what another place says about a chain.

        Args:
            name: the chain.
            source: the place, in words for people.
            text: as ``mark`` writes it.
        """
        number, _, mac = text.partition(" ")
        self._marks.setdefault(name, {}).setdefault(int(number), (mac, source))

    def begin(self, name: str) -> None:
        """Forget the records of a chain, before it is read from its beginning."""
        self._macs[name] = array("Q")

    def take(self, name: str, record: Record, place: ChainPosition) -> None:
        """Add a valid record: its MAC, and what it says about other chains."""
        for other, text in record.detail.items():
            if other.startswith(HEADS):
                self.add(other.removeprefix(HEADS), f"chain {name}", text)
        self._macs[name].append(_prefix(place.mac))

    def contradicts(self, name: str) -> str:
        """Return the statement of another place that a chain's own records contradict, in words; empty: none."""
        macs = self._macs[name]
        for number, (mac, source) in sorted(self._marks.get(name, {}).items(), reverse=True):
            if number and (number > len(macs) or macs[number - 1] != _prefix(mac)):
                return f"put back to an earlier state, or replaced: {source} knows {number} records of it"
        return ""


def _prefix(mac: str) -> int:
    """Return the first eight bytes of a MAC."""
    return int(mac[:16], 16)


def _damaged(anchor: Anchors, seals: Seals) -> list[str]:
    """Return a text for each copied head that is damaged: nobody can tell what it said, so it proves nothing."""
    where = anchor.folder.name
    return [
        f"{where}/{name} is not a valid head: delete it, the next record of the chain writes it again"
        for name in anchor.damaged(seals)
    ]


def _look_outside(report: Report, anchor: Anchors, seals: Seals) -> None:
    """Add to a report when the heads were last copied to other storage, and what is wrong with the copies."""
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
            report.problem = "head is missing, changed, or not signed with this home's key"
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
    except OSError as error:  # something else, such as a folder, is in its place, or the disk cannot read it
        report.problem = f"a file of it cannot be read ({error.strerror})"
        return report
    report.records, report.mac = place.records, place.mac
    if not report.problem and (sealed.end, sealed.mac) != (head.end, head.mac):
        report.problem = f"{head.records - place.records} records are missing at its end"
    return report


def _consistent(chain: Chain) -> tuple[Head | None, Iterator[bytes]]:
    """Return a head and its lines as of one moment: writers hold the lock until both are written."""
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
