"""NEWS2, the national early warning score (Royal College of Physicians 2017), as far as its parts are known.

Chart 1, oxygen saturation by scale 1: scale 2 needs a doctor's decision that no data here carry. A part without a
recent value is named as missing and adds nothing; the total is then *partial*, a lower bound, and must be shown so.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from vitalake.care.records import History, code_number

MAX_AGE_HOURS = 12.0
"""An older value does not count: 12 h is the longest interval between observations that the RCP allows (score 0)."""

_WORST = 3

# Of each part: LOINC codes, decimals of the chart, and the highest value of each band with its points; the last band
# has no end.
_INF = float("inf")
_BANDS: dict[str, tuple[tuple[str, ...], int, tuple[tuple[float, int], ...]]] = {
    "respiratory_rate": (("9279-1",), 0, ((8, 3), (11, 1), (20, 0), (24, 2), (_INF, 3))),
    "oxygen_saturation": (("2708-6", "59408-5"), 0, ((91, 3), (93, 2), (95, 1), (_INF, 0))),
    "systolic_pressure": (("8480-6",), 0, ((90, 3), (100, 2), (110, 1), (219, 0), (_INF, 3))),
    "pulse": (("8867-4", "8889-8"), 0, ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (_INF, 3))),
    "consciousness": (("9269-2",), 0, ((14, 3), (_INF, 0))),
    "temperature": (("8310-5",), 1, ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (_INF, 2))),
}
OXYGEN_FLOW, OXYGEN_FRACTION = "3151-8", "3150-6"
ROOM_AIR_PERCENT = 21.0
ON_OXYGEN = 2

CODES = (*(code for codes, _, _ in _BANDS.values() for code in codes), OXYGEN_FLOW, OXYGEN_FRACTION)
"""LOINC codes of everything the score reads."""

PARTS = ("respiratory_rate", "oxygen_saturation", "supplemental_oxygen", *list(_BANDS)[2:])
"""In the chart's order."""


class News2(msgspec.Struct, frozen=True):
    """The score of a patient as of a moment.

    Attributes:
        total: of the known parts; None: none is known.
        parts: points of each part; None: no recent value.
        missing: the parts without one.
        partial: whether any is missing.
    """

    total: int | None
    parts: dict[str, int | None]
    missing: tuple[str, ...]
    partial: bool

    @property
    def red(self) -> bool:
        """Return whether a single part scores 3, which alone asks for an urgent look."""
        return any(points == _WORST for points in self.parts.values())


def news2(history: History, *, as_of_us: int) -> News2:
    """Return the score as of a moment, of each part the latest value known then and not older than MAX_AGE_HOURS.

    Of several values of one moment the one with most points counts.
    """
    recent = (history.effective_us <= as_of_us) & (history.available_us <= as_of_us)
    recent &= history.effective_us > as_of_us - int(MAX_AGE_HOURS * 3.6e9)
    recent &= np.isfinite(history.value)
    known = history.where(recent)
    parts: dict[str, int | None] = dict.fromkeys(PARTS)
    for name, (codes, decimals, bands) in _BANDS.items():
        _, values = _latest(known, codes)
        parts[name] = max((points(bands, value, decimals=decimals) for value in values), default=None)
    parts["supplemental_oxygen"] = _oxygen(known)
    missing = tuple(name for name, score in parts.items() if score is None)
    found = [score for score in parts.values() if score is not None]
    return News2(sum(found) if found else None, parts, missing, bool(missing))


def points(bands: Iterable[tuple[float, int]], value: float, *, decimals: int) -> int:
    """Return the points of a value, rounded (half up) to the decimals of the chart, whose bands leave gaps."""
    scale = 10**decimals
    rounded = np.floor(value * scale + 0.5) / scale
    return next(score for highest, score in bands if rounded <= highest)


def _latest(known: History, codes: tuple[str, ...]) -> tuple[int, list[float]]:
    """Return the latest moment at which any of the codes has a value, and its values then."""
    numbers = [code_number(code) for code in codes]
    mine = known.code == numbers[0]
    for number in numbers[1:]:
        mine |= known.code == number
    if not mine.any():
        return 0, []
    times = known.effective_us[mine]
    newest = times.max()
    return int(newest), known.value[mine][times == newest].tolist()


def _oxygen(known: History) -> int | None:
    """Return the points for oxygen: what was told last, as flow or as fraction, counts."""
    flow_us, flows = _latest(known, (OXYGEN_FLOW,))
    fraction_us, fractions = _latest(known, (OXYGEN_FRACTION,))
    if not flows and not fractions:
        return None
    given = (bool(flows) and flow_us >= fraction_us and max(flows) > 0) or (
        bool(fractions) and fraction_us >= flow_us and max(fractions) > ROOM_AIR_PERCENT
    )
    return ON_OXYGEN if given else 0
