"""Makes the tables by which values get the unit in which their code is published: value × factor + offset.

``pipelines/formats/shared/conform.py`` applies them to rows of every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MASS, AMOUNT, CHARGE = "mass concentration", "amount concentration", "charge concentration"
"""Families of the units g/L, mol/L and eq/L. A substance's molar mass and valence convert between them."""


def conversions(
    entries: Mapping[str, Mapping[str, Any]], index: Mapping[str, int], units: Mapping[str, Any]
) -> tuple[Floats, Floats]:
    """Return factor and offset for each code and unit; a factor of NaN where the unit does not fit the code.

    Args:
        entries: LOINC code → its entry in codes.yaml.
        index: unit → its column; one more column at the end is for unknown units.
        units: the document of units.yaml.

    Raises:
        KeyError: an entry names no unit, or a conversion names a unit that is not in the index.
    """
    columns = max(index.values()) + 2
    factor = np.full((len(entries) + 1, columns), np.nan)
    offset = np.zeros_like(factor)
    dimensionless = set(units.get("dimensionless", ()))
    for i, (code, entry) in enumerate(entries.items()):
        unit = str(entry["unit"])
        if unit in dimensionless:
            factor[i, index[""]] = 1.0
        for other, scale in _of_families(entry, units.get("families", {})).items():
            factor[i, index[other]] = scale
        factor[i, index[unit]] = 1.0
        for given in units["units"]:
            if given["to"] == unit and code in given.get("codes", [code]):
                j = index[str(given["from"])]
                factor[i, j], offset[i, j] = float(given["factor"]), float(given.get("offset", 0.0))
    return factor, offset


def _of_families(entry: Mapping[str, Any], families: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return factors for the units of a code's own family, and of the families that its substance converts from."""
    unit = str(entry["unit"])
    own = next((name for name, family in families.items() if unit in family), None)
    if own is None:
        return {}
    joined = {own: 1.0}
    per_mole = {AMOUNT: 1.0}
    if "molar_mass" in entry:
        per_mole[MASS] = float(entry["molar_mass"])
    if "valence" in entry:
        per_mole[CHARGE] = float(entry["valence"])
    if own in per_mole:
        joined |= {name: per_mole[own] / per for name, per in per_mole.items() if name != own}
    base = float(families[own][unit])
    return {
        str(other): float(scale) * step / base
        for name, step in joined.items()
        for other, scale in families[name].items()
    }
