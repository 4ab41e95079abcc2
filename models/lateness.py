"""Values that came long after the time they say: by a clock that is behind, or because something kept them.

When a value was measured its sender's clock says; when it came, ours does. A clock that is behind, and a way that takes
long, bring values of new times as fast as time goes, each as late as the one before: a steady lag. Whoever catches up,
a gateway after a pause or a load of history, brings hours within seconds, and the lag shrinks from value to value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vitalake.clinical.records import History

Times = npt.NDArray[np.int64]

BEHIND_US = 300_000_000
"""From so late on a value is called late; what a gateway gathers in a few minutes is not."""

HIDDEN_US = 15 * 60_000_000
"""From so steady a lag on a sensor's readings count for nothing beside another's that come in time: nobody is low then.
So long after a steady lag's last value what comes in time says that it is over."""

_STEADY_US = 30_000_000
_SPAN_US = 60_000_000
_FEWEST = 3


class Lag(NamedTuple):
    """How values come steadily late.

    Attributes:
        us: by how much, in microseconds.
        came_us: when they came, ascending.
        hidden: others of the part come in time, beside which they count for nothing.
    """

    us: int
    came_us: Times
    hidden: bool = False

    def goes_on_after(self, end_us: int) -> bool:
        """Return whether values have come for a minute at least since a moment: one may have been on its way."""
        since = self.came_us[self.came_us > end_us]
        return len(since) > 0 and int(np.ptp(since)) >= _SPAN_US


def steady_lag(effective_us: Times, available_us: Times) -> Lag | None:
    """Return how the values of one code that came last are late, all by the same; None: they are not.

    Three at least, that came within a minute or more, and none that came in time long after them. Those in time are of
    another device, or of before the clock was set.
    """
    lag = available_us - effective_us
    late = lag >= BEHIND_US
    if not late.any():
        return None
    order = np.argsort(available_us[late], kind="stable")
    came, lag = available_us[late][order], lag[late][order]
    other = np.flatnonzero(np.abs(lag - lag[-1]) > _STEADY_US)
    run = slice(int(other[-1]) + 1 if len(other) else 0, None)
    steady = len(lag[run]) >= _FEWEST and came[-1] - came[run][0] >= _SPAN_US
    return Lag(int(lag[run].min()), came[run]) if steady and available_us.max() - came[-1] < HIDDEN_US else None


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


def behind(history: History, codes: Mapping[str, tuple[int, ...]], *, since_us: int) -> dict[str, Lag]:
    """Return of each part whose values come steadily late how.

    That a clock was behind says nothing any more when its last value does not count, or when others of the part, by
    whichever code, have come in time for long after it: the device is gone, or its clock is set.

    Args:
        history: what is known.
        codes: of each part, as numbers.
        since_us: of when a value must be to count.
    """
    finite = np.isfinite(history.value)
    lag_us = history.available_us - history.effective_us
    if not (lag_us >= BEHIND_US).any():
        return {}
    found = {}
    for part, numbers in codes.items():
        lags = [
            lag
            for number in numbers
            if (mine := finite & (history.code == number)).any()
            and (lag := steady_lag(history.effective_us[mine], history.available_us[mine])) is not None
            and lag.came_us[-1] - lag.us > since_us
        ]
        in_time = finite & np.isin(history.code, numbers) & (lag_us < BEHIND_US)
        last_us = int(history.available_us[in_time].max(initial=0))
        lags = [lag for lag in lags if last_us - lag.came_us[-1] < HIDDEN_US]
        if lags:
            most = max(lags, key=lambda lag: lag.us)
            hides = history.effective_us[in_time].max(initial=0) > most.came_us[-1] - most.us
            found[part] = most._replace(hidden=bool(most.us >= HIDDEN_US and hides))
    return found
