"""Units as people write them: what differs only in case, blanks, signs for micro and powers of ten is one unit."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SIGNS = str.maketrans(
    {"µ": "u", "μ": "u", "º": "°", "℃": "°c", "℉": "°f", "×": "x", "·": ".", "−": "-"}
    | dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True))
)
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_POWER_OF_TEN = re.compile(r"x?10(?:\^|\*\*?|e\+?|exp)?\(?(\d{1,2})\)?(?=[^\d]|$)")
_SHORTEST = 3
"""Shorter units are taken letter by letter: M is no metre, K no thousand, S no second."""


def fold(text: str) -> str:
    """Return what spellings of one unit have in common."""
    signs = _SUPERSCRIPTS.sub(lambda found: f"^{found[0]}", text).translate(_SIGNS)
    return _POWER_OF_TEN.sub(r"10*\1", "".join(signs.split()).casefold(), count=1)


def folded(spellings: Mapping[str, int]) -> dict[str, int]:
    """Return spellings by what they have in common; without those that could be two units, and the shortest."""
    found: dict[str, int] = {}
    ambiguous: set[str] = set()
    for text, unit in spellings.items():
        common = fold(text)
        if len(common) < _SHORTEST and "°" not in common:
            continue
        if found.setdefault(common, unit) != unit:
            ambiguous.add(common)
    return {common: unit for common, unit in found.items() if common not in ambiguous}
