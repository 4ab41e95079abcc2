"""What a refused message may have measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """What a message may have measured.

    Attributes:
        codes: the LOINC codes of the vocabulary that it names, each with its time in microseconds since 1970 UTC; None:
            no time can be read.
        unnamed: whether it may also hold a vital sign whose code is not known.
    """

    codes: Mapping[str, int | None]
    unnamed: bool


NOTHING = About({}, unnamed=False)
ANYTHING = About({}, unnamed=True)


def joined(several: Iterable[About]) -> About:
    """Return the union of what several messages may have measured, each code at its latest time."""
    codes: dict[str, int | None] = {}
    unnamed = False
    for one in several:
        unnamed |= one.unnamed
        for code, at_us in one.codes.items():
            before = codes.get(code)
            codes[code] = at_us if before is None else max(before, at_us or before)
    return About(codes, unnamed)
