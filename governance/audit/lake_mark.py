"""What a lake knows of its home's audit: how it began. So a folder that is deleted with all its heads is missed.

The lake's file is written once, by whoever records first while there is a lake; it changes with ``audit begin`` only.
Lakes on this machine only: nobody who revokes a key waits for storage that cannot be reached.
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
    """Let the lake know how the audit began, if it knows of none; another home's, or a closed one, is let be."""
    try:
        storage = _lake(settings)
        if storage is None or not storage.holds_table("spans") or read_format(storage) != Format(FORMAT):
            return
        if _is_anothers(storage, keys):
            return
        if storage.read_small(NAME) is None and (begun := _beginning(settings.path(settings.audit))):
            storage.write_small(NAME, begun)
    except (OSError, VitaLakeError):
        return


def missed(settings: Settings) -> str:
    """Return what is wrong by what the lake knows; empty: nothing, or it knows nothing."""
    storage = _lake(settings)
    try:
        known = None if storage is None else storage.read_small(NAME)
    except OSError:
        return "the lake cannot be read, which may know of another one"
    found = _beginning(settings.path(settings.audit))
    if known is None or known == found:
        return ""
    if not found:
        return "there is no audit, where the lake knows of one"
    return "it is not the audit that the lake knows, and was not begun by 'vitalake audit begin'"


def refuse_missed(settings: Settings, keys: KeyRing) -> None:
    """Stop where the lake knows of another audit than is there, before one is begun or gone on with in its place.

    A lake of another home, or one that cannot be read, says nothing of this home's audit.

    Raises:
        AuditBroken: it does.
    """
    try:
        storage = _lake(settings)
        if storage is None or storage.read_small(NAME) is None or _is_anothers(storage, keys):
            return
        wrong = missed(settings)
    except (OSError, VitaLakeError):
        return
    if wrong:
        raise AuditBroken(
            f"Audit is gone, and there was one ({wrong})",
            where="settings.audit",
            remedy="Restore the folder from a back-up. Where that cannot be, 'vitalake audit begin' begins a new one.",
        )


def forget_beginning(settings: Settings) -> None:
    """Let the lake forget how the audit began: a new one is begun, on record."""
    if (storage := _lake(settings)) is not None:
        storage.delete(NAME)


def _lake(settings: Settings) -> Storage | None:
    storage = open_storage(settings.lake_uri, settings.storage_options)
    return storage if storage.local else None


def _is_anothers(storage: Storage, keys: KeyRing) -> bool:
    known = read_fingerprints(storage)
    return known is not None and bool(known.differing(fingerprints_of(keys, "")))


def _beginning(folder: Path) -> bytes:
    """Return a digest of the first record of the list of writers; nothing, if there is none."""
    try:
        with (folder / f"{WRITERS}.jsonl").open("rb") as file:
            return hashlib.sha256(line).hexdigest().encode() if (line := file.readline()) else b""
    except OSError:
        return b""
