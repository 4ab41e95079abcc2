"""Values that came long after the time they say: by a clock that is behind, or because something kept them.

When a value was measured its sender's clock says; when it came, ours does. A clock that is behind, and a way that takes
long, bring values of new times as fast as time goes, each as late as the one before: a steady lag. Whoever catches up,
a gateway after a pause or a load of history, brings hours within seconds, and the lag shrinks from value to value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from vitalake.care.records import History

Times = npt.NDArray[np.int64]

BEHIND_US = 300_000_000
"""From so late on a value is called late; what a gateway gathers in a few minutes is not."""

HIDDEN_US = 15 * 60_000_000
"""From so steady a lag on a sensor's readings count for nothing beside another's: nobody is low then."""

_STEADY_US = 30_000_000
_SPAN_US = 60_000_000
_FEWEST = 3


def steady_lag_us(effective_us: Times, available_us: Times) -> int:
    """Return by how much the values of one code that came last are late, all by the same; 0: they are not.

    Three at least, that came within a minute or more, and none that came in time long after them. Those in time are of
    another device, or of before the clock was set.
    """
    lag = available_us - effective_us
    late = lag >= BEHIND_US
    if not late.any():
        return 0
    order = np.argsort(available_us[late], kind="stable")
    came, lag = available_us[late][order], lag[late][order]
    other = np.flatnonzero(np.abs(lag - lag[-1]) > _STEADY_US)
    run = slice(int(other[-1]) + 1 if len(other) else 0, None)
    steady = len(lag[run]) >= _FEWEST and came[-1] - came[run][0] >= _SPAN_US
    return int(lag[run].min()) if steady and available_us.max() - came[-1] < HIDDEN_US else 0


def is_caught_up(effective_us: Times, available_us: Times, at: int) -> bool:
    """Return whether a late value of a code came with others of long times at once: of then it tells, not of now.

    Args:
        effective_us: of all values of the code.
        available_us: of the same.
        at: which of them.
    """
    near = np.abs(available_us - available_us[at]) <= HIDDEN_US
    near &= available_us - effective_us >= BEHIND_US
    told, came = effective_us[near], available_us[near]
    return bool(np.ptp(told) > 2 * np.ptp(came) + _SPAN_US)


def behind(history: History, codes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return of each part whose values come steadily late by how much, in microseconds.

    Args:
        history: what is known.
        codes: of each part, as numbers.
    """
    finite = np.isfinite(history.value)
    if not (history.available_us - history.effective_us >= BEHIND_US).any():
        return {}
    found = {}
    for part, numbers in codes.items():
        lags = [
            steady_lag_us(history.effective_us[mine], history.available_us[mine])
            for mine in (finite & (history.code == number) for number in numbers)
        ]
        if any(lags):
            found[part] = max(lags)
    return found
