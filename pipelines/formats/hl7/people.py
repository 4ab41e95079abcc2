"""Reads from PID a patient's birth, sex and death."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from pipelines.formats.hl7.text import Segment
from pipelines.online_store.facts import DELETED


class PersonalDetails(NamedTuple):
    """Birth, sex and death of a patient in PID; None: not given. See pipelines.online_store.facts.Person."""

    born: str | None
    sex: str | None
    died: str | None


def details_of(pid: Segment) -> PersonalDetails:
    """Return birth, sex and death of a PID."""
    return PersonalDetails(_born(pid), _sex(pid), _died(pid))


_SEXES = {"F": "female", "M": "male"}


def _sex(pid: Segment) -> str | None:
    return DELETED if pid.is_deleted(8) else _SEXES.get(pid.first(8))


def _died(pid: Segment) -> str | None:
    """Return ``yes`` if PID-30 says that the patient has died, DELETED if it denies it; None: not given."""
    indicator = pid.first(30)
    return "yes" if indicator == "Y" else DELETED if indicator == "N" or pid.is_deleted(30) else None


def _born(pid: Segment) -> str | None:
    """Return a full or partial date of birth, such as ``2018-05-03`` or ``2018-05``; None: it cannot be read."""
    if pid.is_deleted(7):
        return DELETED
    digits = pid.first(7)[:8]
    if not digits.isascii() or not digits.isdecimal() or len(digits) not in (4, 6, 8):
        return None
    parts = [digits[:4], *(digits[i : i + 2] for i in range(4, len(digits), 2))]
    try:
        date.fromisoformat("-".join([*parts, "01", "01"][:3]))
    except ValueError:
        return None
    return "-".join(parts)
