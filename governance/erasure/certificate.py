"""The certificate of an erasure: what was deleted, and where data of the patient may remain, and until when."""

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
    """What an erasure did to one table.

    Attributes:
        table: its name.
        rows: how many rows of the patient were removed.
        files_searched, bytes_searched: the files that could hold rows of the patient.
        files_rewritten, bytes_rewritten: those of them that held some, and were written again without them.
        files_deleted: files of older versions, or left by killed writers, that held rows of the patient.
        unreadable: messages that remain and that nobody can open any more: they may or may not be the patient's.
        nameless: messages that remain and name nobody whom the vault knows for certain: some may be the patient's.
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
    """A place that an erasure does not reach, because the lake does not control it or cannot search it.

    Attributes:
        place: its name, such as a topic's; never a person's name.
        what: why data of the patient may be there, and what to do about it.
        until: ISO date by which the data expire by themselves; None: they stay until somebody deletes them.
    """

    place: str
    what: str
    until: str | None = None


class Certificate(msgspec.Struct, frozen=True):
    """The record of an erasure, which is kept for ever and does not name the patient.

    Attributes:
        id: of the certificate.
        subject: keyed hash of the patient's id, hex.
        tokens: SHA-256 of the pseudonyms, hex; rows found under one of them, in a back-up, belong to the patient.
        reason: in the officer's words, such as the request's number.
        actor: the account that ran the erasure.
        begun_at, finished_at: ISO.
        tables: what was done to each table.
        elsewhere: name of a store → how many entries were removed from it.
        outside: the places that the erasure does not reach.
        resumed: whether the erasure was interrupted and continued; the counts then cover the last run only.
        together: ids of the certificates of the patient's other numbers, erased by the same request.
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
    """Return an id for a new certificate."""
    return f"erasure-{clock.now():%Y%m%d}-{secrets.token_hex(4)}"


def now() -> str:
    """Return the current time in the form that certificates use."""
    moment: datetime = clock.now()
    return moment.isoformat(timespec="seconds")


def save(folder: Path, certificate: Certificate) -> Path:
    """Write a certificate and sync it to disk; return its file. An existing one is replaced as a whole.

    Raises:
        ServiceUnavailable: the file cannot be written.
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
        sync_folder(folder)  # the caller next deletes the data that a second attempt would need
    except OSError as error:
        raise ServiceUnavailable(
            f"Certificate cannot be written ({error.strerror})",
            where=folder.name,
            remedy="Check the disk, then run the command again.",
        ) from None
    return target


def is_there(folder: Path, certificate: str) -> bool:
    """Return whether the file of a certificate exists."""
    return (folder / f"{Path(certificate).name}.json").is_file()


def load(folder: Path, certificate: str) -> Certificate:
    """Return a certificate.

    Raises:
        InputError: no file has this id, or the file is not a certificate.
    """
    try:
        return msgspec.json.decode((folder / f"{Path(certificate).name}.json").read_bytes(), type=Certificate)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        raise InputError(
            "No readable certificate has this id",
            where=folder.name,
            remedy="Run 'vitalake patient certificate' to list all certificates.",
        ) from None


def readable(folder: Path) -> tuple[list[Certificate], list[str]]:
    """Return the certificates that can be read, oldest first; and the names of the files that cannot."""
    found, damaged = list[Certificate](), list[str]()
    for path in sorted(folder.glob("erasure-*.json")):
        try:
            found.append(load(folder, path.stem))
        except InputError:
            damaged.append(path.name)
    return sorted(found, key=lambda certificate: certificate.begun_at), damaged


def refuse_damaged(folder: Path, damaged: list[str]) -> None:
    """Stop if a certificate cannot be read.

    Raises:
        InputError: names the first such file.
    """
    if damaged:
        raise InputError(
            "A certificate of erasure cannot be read",
            where=f"{folder.name}/{damaged[0]}",
            remedy="Restore the file from a back-up; if there is none, erase its patient again and move the file away.",
        )


def all_of(folder: Path) -> list[Certificate]:
    """Return every certificate, oldest first.

    Raises:
        InputError: one cannot be read.
    """
    found, damaged = readable(folder)
    refuse_damaged(folder, damaged)
    return found
