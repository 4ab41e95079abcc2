"""The recorder that writes the audit's files."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from governance.audit.anchors import anchors_of, furthest, heads_of
from governance.audit.chain import ANCHOR, WRITERS, Chain, StrayBytes, chain_names
from governance.audit.events import AuditEvent
from governance.audit.lake_mark import keep_beginning, refuse_mismatch
from governance.audit.records import AuditBroken, Seals, broken
from vitalake import clock
from vitalake.causes import unavailable
from vitalake.errors import VitaLakeError
from vitalake.folders import folder_lock, sync_folder
from vitalake.keys import KeyRing
from vitalake.settings import Settings

_log = logging.getLogger(__name__)

ANCHOR_SECONDS = 60.0
"""How often heads are copied to the other places. A recorder's first record anchors at once, later ones only after this
time: an anchor needs several syncs, too many for each record."""

_WRITER = re.compile(r"[a-z][a-z0-9-]{0,40}")


class FileAuditSink:
    """Writes one chain of an audit folder; threads and processes may share it. It holds no lock between records."""

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
            folder: of all chains; created if missing, readable by its owner only.
            keys: with the key ``audit``.
            writer: the name of the chain, such as ``serving``.
            outside: a folder on other storage, where the heads are kept too; None: there is none.
            seconds: a monotonic clock.

        Raises:
            AuditBroken: files are missing, do not match their heads, or were put back to an earlier state.
            ServiceUnavailable: the folder cannot be written.
        """
        if not _WRITER.fullmatch(writer) or writer == WRITERS:
            raise ValueError("a writer's name is a word of a-z, 0-9 and -")
        self._seals, self._folder, self._seconds = Seals(keys), folder, seconds
        self._chain = Chain(folder, writer, self._seals)
        self._anchors, self._anchored = anchors_of(folder, outside), float("-inf")
        try:
            if not folder.is_dir() and furthest(self._anchors, self._seals):
                raise audit_gone()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with folder_lock(folder):
                self._refuse_put_back()
                self._register(folder)
                self._heads = heads_of(folder, self._seals)
        except OSError as error:
            raise _unwritable(error) from None

    def _register(self, folder: Path) -> None:
        """Create the chain, and register it in the chain of writers, if it is not registered yet."""
        writers, names = Chain(folder, WRITERS, self._seals), chain_names(folder)
        if names <= {WRITERS} and not writers.head_path.exists():
            writers.create()
            sync_folder(folder.parent)
        elif WRITERS not in names:
            raise broken("the list of writers is gone", writer=WRITERS)
        if self._chain.writer not in registered(writers, self._seals):
            self._chain.create()
            writers.append("writer", detail={"writer": self._chain.writer})

    def _refuse_put_back(self) -> None:
        """Raise an error if a chain is shorter than a copy of its head says; ``verify_chain`` finds other changes."""
        known = furthest(self._anchors, self._seals)
        if known and not chain_names(self._folder):
            raise audit_gone()
        for name in (WRITERS, self._chain.writer):
            path = Chain(self._folder, name, self._seals).path
            if name in known and path.exists() and path.stat().st_size < known[name].end:
                raise broken("it was put back to an earlier state", writer=name)

    def _anchor(self) -> None:
        """Write the head of every chain into the chain of writers, and copy all of them to other storage."""
        with folder_lock(self._folder):
            writers = Chain(self._folder, WRITERS, self._seals)
            writers.append(ANCHOR, heads=heads_of(self._folder, self._seals))
            self._heads = heads_of(self._folder, self._seals)
            for anchor in self._anchors[1:]:
                try:
                    anchor.keep(self._heads, self._seals)
                except OSError as error:
                    # A missing disk must not keep clinicians from seeing patients; 'audit verify' reports it.
                    what = error.strerror or type(error).__name__
                    _log.error("audit is not anchored outside", extra={"what": what, "where": "settings.anchors"})
        self._anchored = self._seconds()

    def record(self, event: AuditEvent) -> None:
        """Record an event, durably before it returns.

        Raises:
            AuditBroken: the chain does not match its head.
            ServiceUnavailable: it cannot be written.
            LakeError: something else, such as a folder, is in the place of one of its files.
        """
        self.record_all([event])

    def record_all(self, events: Sequence[AuditEvent]) -> None:
        """Record events, all durably before it returns, with one sync for all.

        Raises:
            AuditBroken: the chain does not match its head.
            ServiceUnavailable: they cannot be written; treat none of them as recorded.
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
    """Return the recorder for one part of the system.

    Raises:
        AuditBroken: as ``FileAuditSink``; or the audit is not the one that the lake knows.
        ServiceUnavailable: as ``FileAuditSink``.
    """
    refuse_mismatch(settings, keys)
    sink = FileAuditSink(settings.path(settings.audit), keys, writer, outside=anchor_folder(settings))
    keep_beginning(settings, keys)
    return sink


def anchor_folder(settings: Settings) -> Path | None:
    """Return the folder on other storage that the settings name; None: they name none."""
    return None if settings.anchors is None else settings.path(settings.anchors)


def registered(writers: Chain, seals: Seals) -> set[str]:
    """Return the names of the chains that are registered in the chain of writers."""
    try:
        with writers.path.open("rb") as file:
            steps = list(writers.follow(file, seals.begin(WRITERS)))
    except FileNotFoundError:
        return set()
    return {
        step[0].detail["writer"] for step in steps if not isinstance(step, StrayBytes) and step[0].action == "writer"
    }


def audit_gone() -> AuditBroken:
    """Return the error of an audit that existed and is missing now."""
    return AuditBroken(
        "Audit is gone: copies of its heads exist, but no chain",
        where="settings.audit",
        remedy="Restore the folder. If that is impossible, 'vitalake audit begin' begins a new one, and records that.",
    )


def set_audit_aside(folder: Path, outside: Path | None) -> str:
    """Rename an audit's folder, if it is there, and its heads' folders; return the folder's new name.

    The next recorder begins a new audit. Nothing is deleted.

    Raises:
        ServiceUnavailable: a folder cannot be renamed.
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
        remedy="Check its disk and permissions. Until it can be written, nothing is shown that must be recorded.",
    )
