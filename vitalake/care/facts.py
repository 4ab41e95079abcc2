"""What a warehouse says of a patient's stay, as far as a score or a board needs it."""

from __future__ import annotations

import msgspec


class Admission(msgspec.Struct, frozen=True):
    """A stay, as the warehouse tells it."""

    admitted_us: int
    discharged_us: int | None
    age_years: float | None


class Person(msgspec.Struct, frozen=True):
    """What of a patient a score may depend on."""

    sex: str


class Movement(msgspec.Struct, frozen=True):
    """A patient comes to a ward or bed."""

    encounter: str
    since_us: int
    until_us: int | None
    unit: str
    bed: str


Fact = Admission | Person | Movement
FOR_EVER = 1 << 62
"""Until when a fact holds that has not ended."""

KINDS: dict[type, str] = {Admission: "encounter", Person: "patient", Movement: "movement"}
"""How each is named in the store."""


def until(fact: Fact) -> int:
    """Return when a fact has ceased to hold, microseconds since 1970 UTC; FOR_EVER while it holds."""
    ended = {Admission: "discharged_us", Movement: "until_us"}.get(type(fact))
    end = getattr(fact, ended) if ended else None
    return FOR_EVER if end is None else int(end)
