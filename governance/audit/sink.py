"""The recorder that files are written with."""

from __future__ import annotations

import re
from pathlib import Path

from governance.audit.chain import WRITERS, Chain, Odd, chain_names
from governance.audit.events import AuditEvent
from governance.audit.records import Seals, broken
from vitalake.errors import ServiceUnavailable
from vitalake.folders import folder_lock, sync_folder
from vitalake.keys import KeyRing
from vitalake.settings import Settings

_WRITER = re.compile(r"[a-z][a-z0-9-]{0,40}")


class FileAuditSink:
    """Writes one chain of a folder; threads and processes may share it. No lock is held between records."""

    def __init__(self, folder: Path, keys: KeyRing, writer: str) -> None:
        """Open the writer's chain, or begin it.

        Args:
            folder: of all chains; made if missing, for its owner only.
            keys: with the key ``audit``.
            writer: names the chain, such as ``serving``.

        Raises:
            AuditBroken: files are missing, or not what their heads say.
            ServiceUnavailable: the folder cannot be written.
        """
        if not _WRITER.fullmatch(writer) or writer == WRITERS:
            raise ValueError("a writer's name is a word of a-z, 0-9 and -")
        self._seals = Seals(keys)
        self._chain = Chain(folder, writer, self._seals)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with folder_lock(folder):
                self._enter(folder)
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

    def record(self, event: AuditEvent) -> None:
        """Record an event, durably before it returns.

        Raises:
            AuditBroken: the chain is not what its head says.
            ServiceUnavailable: it cannot be written.
        """
        try:
            self._chain.append(
                event.action, actor=event.actor, role=event.role, patients=event.patients, detail=event.detail
            )
        except OSError as error:
            raise _unwritable(error) from None


def open_audit(settings: Settings, keys: KeyRing, *, writer: str) -> FileAuditSink:
    """Return the recorder of a part of the system."""
    return FileAuditSink(settings.path(settings.audit), keys, writer)


def registered(writers: Chain, seals: Seals) -> set[str]:
    """Return the chains that the chain of writers names."""
    try:
        with writers.path.open("rb") as file:
            steps = list(writers.follow(file, seals.begin(WRITERS)))
    except FileNotFoundError:
        return set()
    return {step[0].detail["writer"] for step in steps if not isinstance(step, Odd) and step[0].action == "writer"}


def _unwritable(error: OSError) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"Audit cannot be written ({error.strerror})",
        where="settings.audit",
        remedy="Check its disk and permissions; until then nothing is shown that must be recorded.",
    )
