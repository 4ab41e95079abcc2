"""Folds spellings of units: those that differ only in case, blanks, the micro sign or powers of ten are one unit."""

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
"""Shorter units must be spelled exactly: M is not a metre, K is not a thousand, S is not a second."""


def fold(text: str) -> str:
    """Return the folded form of a unit's spelling, which is the same for all spellings of the unit."""
    signs = _SUPERSCRIPTS.sub(lambda found: f"^{found[0]}", text).translate(_SIGNS)
    return _POWER_OF_TEN.sub(r"10*\1", "".join(signs.split()).casefold(), count=1)


def folded(spellings: Mapping[str, int]) -> dict[str, int]:
    """Return spellings by their folded form, without those that could be two units, and without very short ones."""
    found: dict[str, int] = {}
    ambiguous: set[str] = set()
    for text, unit in spellings.items():
        common = fold(text)
        if len(common) < _SHORTEST and "°" not in common:
            continue
        if found.setdefault(common, unit) != unit:
            ambiguous.add(common)
    return {common: unit for common, unit in found.items() if common not in ambiguous}
