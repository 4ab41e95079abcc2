"""The certificate of an erasure: what was done, and what stays outside our reach and until when."""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from pathlib import Path

import msgspec

from vitalake import clock
from vitalake.errors import InputError, ServiceUnavailable
from vitalake.folders import sync_folder


class TableErased(msgspec.Struct, frozen=True):
    """What was done to one table.

    Attributes:
        table: its name.
        rows: how many of the patient's went.
        files_searched, bytes_searched: that might have held some.
        files_rewritten, bytes_rewritten: of those, that did.
        files_deleted: older versions, and what killed writers left, that held some.
        unreadable: messages that nobody can open any more, so that whose they are cannot be told.
        nameless: messages that are left and name nobody whom the vault knows for sure, so that whose they are is open.
    """

    table: str
    rows: int = 0
    files_searched: int = 0
    bytes_searched: int = 0
    files_rewritten: int = 0
    bytes_rewritten: int = 0
    files_deleted: int = 0
    unreadable: int = 0
    nameless: int = 0


class OutOfScope(msgspec.Struct, frozen=True):
    """A place that the lake does not rule.

    Attributes:
        place: such as a topic's name; never a person's.
        what: why something of the patient may be there.
        until: ISO date at which it is gone by itself; None: somebody has to see to it.
    """

    place: str
    what: str
    until: str | None = None


class Certificate(msgspec.Struct, frozen=True):
    """What is kept of an erasure, for ever; it names nobody.

    Attributes:
        id: of the certificate.
        subject: keyed hash of the patient, hex.
        tokens: SHA-256 of the pseudonyms, hex: what is found under one of them, in a back-up, is the patient's.
        reason: in the officer's words, such as the request's number.
        actor: who did it.
        begun_at, finished_at: ISO.
        tables: what was done to each table.
        elsewhere: name of a store → how many entries went.
        outside: what stays outside our reach.
        resumed: it was killed, and gone on with: the counts are of the last run only.
        together: ids of the certificates of the patient's other numbers.
    """

    id: str
    subject: str
    tokens: tuple[str, ...]
    reason: str
    actor: str
    begun_at: str
    finished_at: str
    tables: tuple[TableErased, ...]
    elsewhere: dict[str, int]
    outside: tuple[OutOfScope, ...]
    resumed: bool = False
    together: tuple[str, ...] = ()


def new_id() -> str:
    """Return the id of a new certificate."""
    return f"erasure-{clock.now():%Y%m%d}-{secrets.token_hex(4)}"


def now() -> str:
    """Return the time, as certificates write it."""
    moment: datetime = clock.now()
    return moment.isoformat(timespec="seconds")


def save(folder: Path, certificate: Certificate) -> Path:
    """Write a certificate, synced; return its file. One that is there is replaced whole.

    Raises:
        ServiceUnavailable: it cannot be written.
    """
    target = folder / f"{certificate.id}.json"
    staged = folder / f".{certificate.id}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with staged.open("wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(certificate), indent=1) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        staged.replace(target)
        sync_folder(folder)  # what is needed to make it again is thrown away next
    except OSError as error:
        raise ServiceUnavailable(
            f"Certificate cannot be written ({error.strerror})",
            where=folder.name,
            remedy="Check its disk; run it again.",
        ) from None
    return target


def is_there(folder: Path, certificate: str) -> bool:
    """Return whether a certificate was written."""
    return (folder / f"{Path(certificate).name}.json").is_file()


def load(folder: Path, certificate: str) -> Certificate:
    """Return a certificate.

    Raises:
        InputError: there is none of this id, or it is not one.
    """
    try:
        return msgspec.json.decode((folder / f"{Path(certificate).name}.json").read_bytes(), type=Certificate)
    except (OSError, msgspec.MsgspecError):
        raise InputError(
            "No such certificate", where=folder.name, remedy="See 'vitalake patient certificate' for those there are."
        ) from None


def all_of(folder: Path) -> list[Certificate]:
    """Return every certificate, oldest first."""
    found = [load(folder, path.stem) for path in folder.glob("erasure-*.json")] if folder.is_dir() else []
    return sorted(found, key=lambda certificate: certificate.begun_at)
