"""What goes into the vault and comes out of it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec


class Identity(msgspec.Struct, frozen=True):
    """Who a patient is; shown to people who treat them, and to nobody else.

    Attributes:
        source_id: the patient's id at its source.
        name: family and given names, as the source writes them.
        mrn: medical record number.
        birth_date: ISO date.
        address: in one line.
        born_by: which message beside the patient's record told the date of birth, the better the higher; None: the
            record did.
    """

    source_id: str
    name: str | None = None
    mrn: str | None = None
    birth_date: str | None = None
    address: str | None = None
    born_by: int | None = None

    def __repr__(self) -> str:
        return "Identity(…)"  # a traceback or a log must not name anybody


class PatientKey(msgspec.Struct, frozen=True):
    """A patient's own key.

    Attributes:
        subject: 16 bytes that stand for the patient in vault and restricted zone.
        secret: 32 random bytes, which only the vault can give again.
    """

    subject: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"PatientKey({self.subject.hex()})"


class Tombstone(msgspec.Struct, frozen=True):
    """What is left of a patient who was erased.

    Attributes:
        subject: whose.
        erased_at: when the key was destroyed.
        certificate: the id of the certificate.
    """

    subject: bytes
    erased_at: datetime
    certificate: str


class PendingErasure(msgspec.Struct, frozen=True):
    """An erasure that is not finished.

    Attributes:
        certificate: the id of its certificate.
        subject: whose.
        identifiers: what is needed to find the rest.
        destroyed: whether the key is; False: it was killed before, begin it again.
    """

    certificate: str
    subject: bytes
    identifiers: tuple[str, ...]
    destroyed: bool

    def __repr__(self) -> str:
        return f"PendingErasure({self.certificate})"


class Hold(msgspec.Struct, frozen=True):
    """A legal hold.

    Attributes:
        subject: who must not be erased.
        reason: in the officer's words.
        until: its end; None: until it is released.
    """

    subject: bytes
    reason: str
    until: datetime | None


def moment(microseconds: int) -> datetime:
    """Return the time of microseconds since 1970, aware, in UTC."""
    return datetime.fromtimestamp(microseconds // 1_000_000, tz=UTC).replace(microsecond=microseconds % 1_000_000)
