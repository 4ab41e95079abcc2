"""Spikes: isolated readings, far from those just before and after, such as a moved probe or a flushed line causes.

A spike is marked, but never removed and never left out of the score: it may also be the start of a change. The
rule is Hampel's identifier (F. R. Hampel, J. Am. Stat. Assoc. 69, 1974): a value further from the median of its
neighbours than three times their scaled median deviation, and, because a steady patient has next to no deviation,
further than a step that a living body does not make and undo between two readings (our limits, by vital sign).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from models.news2 import MEASURED, News2
from vitalake.clinical.records import History, code_number

NEIGHBOURS = 5
"""How many readings on each side are compared."""

FEWEST = 3
"""With fewer readings on a side there is no usual value to compare with."""

NEAR_US = 30 * 60_000_000
"""Readings further apart are not compared: hourly charting has too few values for spikes."""

DEVIATIONS = 3 * 1.4826
"""Times the median deviation: three standard deviations if values are normally distributed."""

LEAST_STEP: dict[str, float] = {
    "respiratory_rate": 15,
    "oxygen_saturation": 10,
    "systolic_pressure": 40,
    "pulse": 40,
    "temperature": 1.5,
}
"""The least step, in the part's unit. Consciousness is assessed by people and has no spikes."""


def spikes(values: Sequence[float], times_us: Sequence[int], *, least_step: float) -> list[int]:
    """Return the indexes of a sensor's readings that are far from both sides.

    Args:
        values: in order of time.
        times_us: when each was measured.
        least_step: a reading nearer to its neighbours is never a spike.
    """
    found = []
    for i, value in enumerate(values):
        if i < FEWEST or i >= len(values) - FEWEST:
            continue
        before = _near(values[max(0, i - NEIGHBOURS) : i], times_us[max(0, i - NEIGHBOURS) : i], times_us[i])
        after = _near(values[i + 1 : i + 1 + NEIGHBOURS], times_us[i + 1 : i + 1 + NEIGHBOURS], times_us[i])
        if len(before) >= FEWEST and len(after) >= FEWEST and _is_far(value, before + after, least_step):
            found.append(i)
    return found


def is_alone(values: Sequence[float], times_us: Sequence[int], *, least_step: float) -> bool:
    """Return whether the last reading is far from those before it: a spike, or the start of a change."""
    if len(values) <= FEWEST:
        return False
    before = _near(values[-1 - NEIGHBOURS : -1], times_us[-1 - NEIGHBOURS : -1], times_us[-1])
    return len(before) >= FEWEST and _is_far(values[-1], before, least_step)


def unconfirmed(known: History, score: News2) -> list[str]:
    """Return the parts whose latest reading is far from the earlier ones and not yet confirmed by another."""
    found = []
    for name, least_step in LEAST_STEP.items():
        reading = score.latest.get(name)
        if reading is None or score.parts[name] is None:
            continue
        mine = np.flatnonzero((known.code == reading.code) & (known.effective_us <= reading.at_us))
        mine = mine[np.isfinite(known.value[mine])][-1 - NEIGHBOURS :]
        times, values = known.effective_us[mine].tolist(), known.value[mine].tolist()
        if times and times[-1] == reading.at_us and is_alone(values, times, least_step=least_step):
            found.append(name)
    return found


def spikes_of(part: str, rows: History) -> list[int]:
    """Return the indexes of spikes among the rows of a part; each code is judged by itself."""
    found: list[int] = []
    if part in LEAST_STEP:
        for code in MEASURED[part].codes:
            mine = np.flatnonzero(rows.code == code_number(code))
            values, times = rows.value[mine].tolist(), rows.effective_us[mine].tolist()
            found += [int(mine[i]) for i in spikes(values, times, least_step=LEAST_STEP[part])]
    return sorted(found)


def _near(values: Sequence[float], times_us: Sequence[int], at_us: int) -> list[float]:
    return [value for value, time in zip(values, times_us, strict=True) if abs(time - at_us) <= NEAR_US]


def _is_far(value: float, others: list[float], least_step: float) -> bool:
    middle = median(others)
    spread = median(abs(other - middle) for other in others)
    return abs(value - middle) > max(least_step, DEVIATIONS * spread)
