"""The codes of vital signs: those that NEWS2 reads. A rejected message with one of them is reported as missing."""

from __future__ import annotations

import numpy as np

from vitalake.clinical.records import code_number
from vitalake.declarations import per_home
from vitalake.vocabulary import load_vocabulary

_GENERAL = (
    "9279-1", "2708-6", "59408-5", "8480-6", "8867-4", "8889-8", "9269-2", "67775-7", "8310-5", "3151-8", "3150-6",
    "9267-6", "9268-4", "9270-0",
)  # fmt: skip
"""Respiration, saturation, systolic pressure, pulse, consciousness, temperature, oxygen given: what NEWS2 reads."""


@per_home
def vital_codes() -> frozenset[str]:
    """Return the LOINC codes of vital signs, with the more special codes that count as them."""
    vocabulary = load_vocabulary()
    return frozenset(near for code in _GENERAL for near in vocabulary.with_near_codes(code))


@per_home
def vital_numbers() -> frozenset[int]:
    """Return ``vital_codes`` as numbers, as ``code_number`` gives them."""
    return frozenset(map(code_number, vital_codes()))


@per_home
def may_be_vital_unit(unit: str | None) -> bool:
    """Return whether a vital sign could come in a unit; True for an unknown unit, about which nothing can be said."""
    vocabulary = load_vocabulary()
    index = vocabulary.unit_index(unit) if unit else vocabulary.no_unit
    rows = [vocabulary.codes[code] for code in sorted(vital_codes()) if code in vocabulary.codes]
    return index < 0 or not bool(np.isnan(vocabulary.factor[rows, index]).all())
