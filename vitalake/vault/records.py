"""What goes into the vault and comes out of it."""

from __future__ import annotations

import msgspec


class Identity(msgspec.Struct, frozen=True):
    """Who a patient is; shown to people who treat them, and to nobody else.

    Attributes:
        source_id: the patient's id at its source.
        name: family and given names, as the source writes them.
        mrn: medical record number.
        birth_date: ISO date.
        address: in one line.
    """

    source_id: str
    name: str | None = None
    mrn: str | None = None
    birth_date: str | None = None
    address: str | None = None

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
