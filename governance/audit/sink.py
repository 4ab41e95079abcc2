"""The recorder that files are written with."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from governance.audit.anchors import anchors_of, furthest, heads_of
from governance.audit.chain import ANCHOR, WRITERS, Chain, StrayBytes, chain_names
from governance.audit.events import AuditEvent
from governance.audit.lake_mark import keep_beginning, refuse_missed
from governance.audit.records import AuditBroken, Seals, broken
from vitalake import clock
from vitalake.causes import unavailable
from vitalake.errors import VitaLakeError
from vitalake.folders import folder_lock, sync_folder
from vitalake.keys import KeyRing
from vitalake.settings import Settings

_log = logging.getLogger(__name__)

ANCHOR_SECONDS = 60.0
"""The first record of a recorder is anchored at once, of those that follow the last at least so often: a few syncs a
minute, none a record."""

_WRITER = re.compile(r"[a-z][a-z0-9-]{0,40}")


class FileAuditSink:
    """Writes one chain of a folder; threads and processes may share it. No lock is held between records."""

    def __init__(
        self,
        folder: Path,
        keys: KeyRing,
        writer: str,
        *,
        outside: Path | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the writer's chain, or begin it.

        Args:
            folder: of all chains; made if missing, for its owner only.
            keys: with the key ``audit``.
            writer: names the chain, such as ``serving``.
            outside: a folder on other storage, where the heads are kept too; None: nowhere.
            seconds: a clock that only runs forward.

        Raises:
            AuditBroken: files are missing, not what their heads say, or put back to an earlier state.
            ServiceUnavailable: the folder cannot be written.
        """
        if not _WRITER.fullmatch(writer) or writer == WRITERS:
            raise ValueError("a writer's name is a word of a-z, 0-9 and -")
        self._seals, self._folder, self._seconds = Seals(keys), folder, seconds
        self._chain = Chain(folder, writer, self._seals)
        self._anchors, self._anchored = anchors_of(folder, outside), float("-inf")
        try:
            if not folder.is_dir() and furthest(self._anchors, self._seals):
                raise gone()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with folder_lock(folder):
                self._refuse_put_back()
                self._enter(folder)
                self._heads = heads_of(folder, self._seals)
        except OSError as error:
            raise _unwritable(error) from None

    def _enter(self, folder: Path) -> None:
        """Begin the chain if no record of the chain of writers names it."""
        writers, there = Chain(folder, WRITERS, self._seals), chain_names(folder)
        if there <= {WRITERS} and not writers.head_path.exists():
            writers.create()
            sync_folder(folder.parent)
        elif WRITERS not in there:
            raise broken("the list of writers is gone", writer=WRITERS)
        if self._chain.writer not in registered(writers, self._seals):
            self._chain.create()
            writers.append("writer", detail={"writer": self._chain.writer})

    def _refuse_put_back(self) -> None:
        """Stop where a chain has less than is known of it elsewhere; what was changed in it ``verify_chain`` finds."""
        known = furthest(self._anchors, self._seals)
        if known and not chain_names(self._folder):
            raise gone()
        for name in (WRITERS, self._chain.writer):
            path = Chain(self._folder, name, self._seals).path
            if name in known and path.exists() and path.stat().st_size < known[name].end:
                raise broken("it was put back to an earlier state", writer=name)

    def _anchor(self) -> None:
        """Name every chain's head in the chain of writers, and keep all of them on other storage."""
        with folder_lock(self._folder):
            writers = Chain(self._folder, WRITERS, self._seals)
            writers.append(ANCHOR, heads=heads_of(self._folder, self._seals))
            self._heads = heads_of(self._folder, self._seals)
            for anchor in self._anchors[1:]:
                try:
                    anchor.keep(self._heads, self._seals)
                except OSError as error:
                    # Nobody is kept from seeing patients by a disk that is not there; 'audit verify' says so.
                    what = error.strerror or type(error).__name__
                    _log.error("audit is not anchored outside", extra={"what": what, "where": "settings.anchors"})
        self._anchored = self._seconds()

    def record(self, event: AuditEvent) -> None:
        """Record an event, durably before it returns.

        Raises:
            AuditBroken: the chain is not what its head says.
            ServiceUnavailable: it cannot be written.
            LakeError: something else lies in the place of one of its files.
        """
        self.record_all([event])

    def record_all(self, events: Sequence[AuditEvent]) -> None:
        """Record events, all durably before it returns: one sync, however many there are.

        Raises:
            AuditBroken: the chain is not what its head says.
            ServiceUnavailable: they cannot be written; none may be taken as recorded.
        """
        hide = self._seals.patient
        heads, self._heads = self._heads, {}
        try:
            self._chain.append_all(
                [(e.action, e.actor, e.role, tuple(map(hide, e.patients)), e.detail) for e in events], heads=heads
            )
            if self._seconds() - self._anchored >= ANCHOR_SECONDS:
                self._anchor()
        except OSError as error:
            raise _unwritable(error) from None


def open_audit(settings: Settings, keys: KeyRing, *, writer: str) -> FileAuditSink:
    """Return the recorder of a part of the system.

    Raises:
        AuditBroken: as ``FileAuditSink``; or the audit is not the one that the lake knows.
        ServiceUnavailable: as ``FileAuditSink``.
    """
    refuse_missed(settings, keys)
    sink = FileAuditSink(settings.path(settings.audit), keys, writer, outside=anchor_folder(settings))
    keep_beginning(settings, keys)
    return sink


def anchor_folder(settings: Settings) -> Path | None:
    """Return the folder on other storage that the settings name; None: none."""
    return None if settings.anchors is None else settings.path(settings.anchors)


def registered(writers: Chain, seals: Seals) -> set[str]:
    """Return the chains that the chain of writers names."""
    try:
        with writers.path.open("rb") as file:
            steps = list(writers.follow(file, seals.begin(WRITERS)))
    except FileNotFoundError:
        return set()
    return {
        step[0].detail["writer"] for step in steps if not isinstance(step, StrayBytes) and step[0].action == "writer"
    }


def gone() -> AuditBroken:
    """Return the error of an audit that is not there, and was."""
    return AuditBroken(
        "Audit is gone, and there was one",
        where="settings.audit",
        remedy="Restore the folder. Where that cannot be, 'vitalake audit begin' begins a new one, and says so in it.",
    )


def begin_anew(folder: Path, outside: Path | None) -> str:
    """Put an audit that does not hold, or what is known of one that is gone, aside; return the name it has now.

    The next recorder begins a new one. Nothing is deleted.

    Raises:
        ServiceUnavailable: it cannot be renamed.
    """
    name = f"{folder.name}.{clock.now():%Y%m%dT%H%M%S}"
    try:
        for path in [folder, *(anchor.folder for anchor in anchors_of(folder, outside))]:
            if path.exists():
                path.rename(path.with_name(f"{name}.heads" if path.suffix == ".heads" else name))
    except OSError as error:
        raise _unwritable(error) from None
    return name


def _unwritable(error: OSError) -> VitaLakeError:
    return unavailable(
        error,
        "Audit cannot be written",
        where="settings.audit",
        remedy="Check its disk and permissions; until then nothing is shown that must be recorded.",
    )
