"""What a message that was refused may have measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """What a message may have measured.

    Attributes:
        codes: LOINC codes of the vocabulary that it names, with the time of each in microseconds since 1970 UTC; None:
            there is none that can be read.
        unnamed: it may hold a vital sign of which no code is known.
    """

    codes: Mapping[str, int | None]
    unnamed: bool


NOTHING = About({}, unnamed=False)
ANYTHING = About({}, unnamed=True)


def joined(several: Iterable[About]) -> About:
    """Return what all of them may have measured, each code at its latest time."""
    codes: dict[str, int | None] = {}
    unnamed = False
    for one in several:
        unnamed |= one.unnamed
        for code, at_us in one.codes.items():
            before = codes.get(code)
            codes[code] = at_us if before is None else max(before, at_us or before)
    return About(codes, unnamed)
