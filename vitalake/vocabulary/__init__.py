"""The vocabulary: LOINC codes with their unit and plausible range, the units that become these, systems of codes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from vitalake.errors import SettingsError
from vitalake.strict_yaml import read_yaml
from vitalake.vocabulary.forms import Form, form_of

Floats = npt.NDArray[np.float64]

FILES = ("codes", "units", "systems")
TRUTHS = frozenset({"true", "false"})
"""How valueBoolean is written as a coded value."""


@dataclass(frozen=True)
class Vocabulary:
    """Codes and units as arrays, so that a batch is looked up at once.

    Attributes:
        codes: LOINC code → index; panels are not among them.
        units: UCUM code → index, of all that a sender may use.
        unit_of: index → the UCUM unit the code is published in.
        names: index → name.
        low, high: index → plausible range in that unit.
        factor, offset: [code, unit] → how to convert; NaN where the unit does not fit the code. The last row and the
            last column stand for what is unknown.
        panels: LOINC codes of panels.
        systems: code system → the form its codes have.
        absent_system, absent_codes: why a value may be absent.
    """

    codes: dict[str, int]
    units: dict[str, int]
    unit_of: tuple[str, ...]
    names: tuple[str, ...]
    sources: tuple[str, ...]
    low: Floats
    high: Floats
    factor: Floats
    offset: Floats
    panels: dict[str, str]
    systems: dict[str, Form]
    absent_system: str
    absent_codes: frozenset[str]

    def knows(self, coded: str) -> bool:
        """Return whether ``<system>|<code>`` is a code, not words that somebody wrote into its place."""
        system, _, code = coded.rpartition("|")
        form = self.systems.get(system)
        return coded in TRUTHS or (form is not None and form.fits(code))

    def absent_reason(self, coded: str) -> str:
        """Return the code for why a value is absent, of ``<system>|<code>``; ``other`` for one that is not listed."""
        system, _, code = coded.rpartition("|")
        return code if system in ("", self.absent_system) and code in self.absent_codes else "other"


def parse_vocabulary(codes: dict[str, Any], units: dict[str, Any], systems: dict[str, Any]) -> Vocabulary:
    """Return the vocabulary that three documents declare.

    Raises:
        SettingsError: an entry is missing a field or contradicts another.
    """
    try:
        entries = codes["codes"]
        index = {code: i for i, code in enumerate(entries)}
        unit_of = tuple(str(entry["unit"]) for entry in entries.values())
        known = dict.fromkeys([*unit_of, *(str(u["from"]) for u in units["units"])])
        unit_index = {unit: i for i, unit in enumerate(known)}
        factor = np.full((len(index) + 1, len(unit_index) + 1), np.nan)
        offset = np.zeros_like(factor)
        for code, i in index.items():
            factor[i, unit_index[unit_of[i]]] = 1.0
            for unit in units["units"]:
                if unit["to"] == unit_of[i] and code in unit.get("codes", [code]):
                    j = unit_index[unit["from"]]
                    factor[i, j], offset[i, j] = float(unit["factor"]), float(unit.get("offset", 0.0))
        low = np.array([float(e["low"]) for e in entries.values()])
        high = np.array([float(e["high"]) for e in entries.values()])
        names = tuple(str(e["name"]) for e in entries.values())
        sources = tuple(str(e["source"]) for e in entries.values())
        panels = dict(codes["panels"])
        forms = {str(system): form_of(entry) for system, entry in systems["systems"].items()}
        absent = systems["absent"]
        absent_system, absent_codes = str(absent["system"]), frozenset(map(str, absent["codes"]))
    except (KeyError, TypeError, ValueError, AttributeError, re.error):
        raise SettingsError("Vocabulary does not hold", where="vitalake/vocabulary", remedy="Mend the entry.") from None
    if not (low < high).all() or set(panels) & set(index):
        raise SettingsError("Vocabulary contradicts itself", where="vitalake/vocabulary", remedy="Check the ranges.")
    return Vocabulary(
        codes=index,
        units=unit_index,
        unit_of=unit_of,
        names=names,
        sources=sources,
        low=low,
        high=high,
        factor=factor,
        offset=offset,
        panels=panels,
        systems=forms,
        absent_system=absent_system,
        absent_codes=absent_codes,
    )


@cache
def load_vocabulary() -> Vocabulary:
    """Return the vocabulary that ships with the project."""
    folder = resources.files(__package__)
    codes, units, systems = (read_yaml((folder / f"{name}.yaml").read_text()) for name in FILES)
    return parse_vocabulary(codes, units, systems)
