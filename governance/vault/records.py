"""The records that the vault stores and returns."""

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
        born_by: which kind of message gave the date of birth, a higher number for a more reliable one; None: the
            patient's own record gave it.
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
        secret: 32 random bytes; only the vault has a copy.
    """

    subject: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"PatientKey({self.subject.hex()})"


class Tombstone(msgspec.Struct, frozen=True):
    """The record that remains of an erased patient.

    Attributes:
        subject: of the patient.
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
        subject: of the patient.
        identifiers: what is needed to find the patient's remaining data.
        destroyed: whether the key is destroyed; False: the erasure was interrupted before that, begin it again.
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
        subject: of the patient, who must not be erased.
        reason: in the officer's words.
        until: its end; None: until it is released.
    """

    subject: bytes
    reason: str
    until: datetime | None

    @property
    def lasts(self) -> str:
        """Return how long it lasts, in words: ``until …``."""
        return f"until {self.until:%Y-%m-%d}" if self.until else "until it is released"


def moment(microseconds: int) -> datetime:
    """Return the time of microseconds since 1970, aware, in UTC."""
    return datetime.fromtimestamp(microseconds // 1_000_000, tz=UTC).replace(microsecond=microseconds % 1_000_000)
