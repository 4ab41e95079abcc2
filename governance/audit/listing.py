"""Lists the audit's records: who has seen which patient's data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from governance.audit.chain import ANCHOR, HEADS, TORN, WRITERS, Chain, StrayBytes, chain_names
from governance.audit.records import Record, Seals
from vitalake.keys import KeyRing

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Seen:
    """One access on record.

    Attributes:
        at: when, UTC.
        actor: who acted.
        role: the role in which they acted.
        action: what they did.
        writer: the part of the system that recorded it.
        patients: how many patients the record names.
        detail: codes.
    """

    at: datetime
    actor: str
    role: str
    action: str
    writer: str
    patients: int
    detail: dict[str, str]


def read_all(folder: Path, keys: KeyRing) -> Iterator[tuple[str, Record]]:
    """Yield all valid records with their writers, chain by chain; use ``verify_chain`` to see whether all are valid."""
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
        pseudonyms: all that the patient has or had: a record has only the one that was current when it was written.
    """
    seals = Seals(keys)
    digests = set().union(*map(seals.patients, pseudonyms))
    found = [_seen(writer, record) for writer, record in read_all(folder, keys) if digests & set(record.patients)]
    return sorted(found, key=lambda seen: seen.at)


def latest(folder: Path, keys: KeyRing, *, limit: int) -> list[Seen]:
    """Return the latest accesses of all chains, oldest first."""
    found = sorted((_seen(writer, record) for writer, record in read_all(folder, keys)), key=lambda seen: seen.at)
    return found[-limit:]


def _seen(writer: str, record: Record) -> Seen:
    at = _EPOCH + timedelta(microseconds=record.at)
    codes = {name: text for name, text in record.detail.items() if not name.startswith(HEADS)}
    return Seen(at, record.actor, record.role, record.action, writer, len(record.patients), codes)
