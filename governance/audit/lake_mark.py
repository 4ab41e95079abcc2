"""Stores in the lake how its home's audit began, so that an audit folder that is deleted with all its heads is noticed.

The first recorder that finds a lake writes the file once; only ``audit begin`` changes it. This is done for lakes on
this machine only: whoever revokes a key must not wait for remote storage that cannot be reached.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from governance.audit.chain import WRITERS
from governance.audit.records import AuditBroken
from governance.belonging.fingerprints import fingerprints_of, read_fingerprints
from vitalake.errors import VitaLakeError
from vitalake.keys import KeyRing
from vitalake.lake.commits.format import FORMAT, Format, read_format
from vitalake.lake.tables.storage import Storage, open_storage
from vitalake.settings import Settings

NAME = "audit.txt"


def keep_beginning(settings: Settings, keys: KeyRing) -> None:
    """Store in the lake how the audit began, if it does not have that yet.

    Does nothing if the lake is another home's, or of another format.
    """
    try:
        storage = _lake(settings)
        if storage is None or not storage.holds_table("spans") or read_format(storage) != Format(FORMAT):
            return
        if _is_other_home(storage, keys):
            return
        if storage.read_small(NAME) is None and (beginning := _beginning(settings.path(settings.audit))):
            storage.write_small(NAME, beginning)
    except (OSError, VitaLakeError):
        return


def beginning_mismatch(settings: Settings) -> str:
    """Return how the audit differs from what the lake stores; empty: it does not, or the lake stores nothing."""
    storage = _lake(settings)
    try:
        known = None if storage is None else storage.read_small(NAME)
    except OSError:
        return "the lake cannot be read, and may know of another audit"
    beginning = _beginning(settings.path(settings.audit))
    if known is None or known == beginning:
        return ""
    if not beginning:
        return "there is no audit, where the lake knows of one"
    return "it is not the audit that the lake knows, and was not begun by 'vitalake audit begin'"


def refuse_mismatch(settings: Settings, keys: KeyRing) -> None:
    """Refuse to begin or continue an audit if the lake knows of another one.

    A lake of another home, or one that cannot be read, proves nothing about this home's audit.

    Raises:
        AuditBroken: the lake knows of another audit.
    """
    try:
        storage = _lake(settings)
        if storage is None or storage.read_small(NAME) is None or _is_other_home(storage, keys):
            return
        mismatch = beginning_mismatch(settings)
    except (OSError, VitaLakeError):
        return
    if mismatch:
        raise AuditBroken(
            f"Audit is gone or was replaced ({mismatch})",
            where="settings.audit",
            remedy="Restore the folder from a back-up. If there is none, 'vitalake audit begin' begins a new audit.",
        )


def forget_beginning(settings: Settings) -> None:
    """Delete from the lake how the audit began; call it when a new audit is begun, which is recorded."""
    if (storage := _lake(settings)) is not None:
        storage.delete(NAME)


def _lake(settings: Settings) -> Storage | None:
    storage = open_storage(settings.lake_uri, settings.storage_options)
    return storage if storage.local else None


def _is_other_home(storage: Storage, keys: KeyRing) -> bool:
    known = read_fingerprints(storage)
    return known is not None and bool(known.differing(fingerprints_of(keys, "")))


def _beginning(folder: Path) -> bytes:
    """Return a digest of the first record of the chain of writers; empty, if there is none."""
    try:
        with (folder / f"{WRITERS}.jsonl").open("rb") as file:
            return hashlib.sha256(line).hexdigest().encode() if (line := file.readline()) else b""
    except OSError:
        return b""
