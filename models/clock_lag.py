"""Late values: those that arrive long after their time, because a clock is behind or because they were delayed.

The time of measurement comes from the sender's clock, the time of arrival from ours. A clock that is behind, or a slow
path, gives a steady lag: values arrive as fast as time passes, each as late as the one before. A gateway that catches
up after a pause, or a load of history, brings hours of values within seconds, and the lag shrinks from value to value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vitalake.clinical.records import History

Times = npt.NDArray[np.int64]

BEHIND_US = 300_000_000
"""A value is late from this lag on; a gateway that collects values for a few minutes does not make them late."""

HIDDEN_US = 15 * 60_000_000
"""From this lag on a sensor's late readings are hidden by another's that come in time; such a patient is never low. A
steady lag is over when values come in time this long after its last value."""

_STEADY_US = 30_000_000
"""The lags of a steady run differ from its last one by at most this much."""

_SPAN_US = 60_000_000
_FEWEST = 3
"""A steady lag needs this many values, and arrivals over this span."""


class Lag(NamedTuple):
    """A steady lag of values.

    Attributes:
        us: how late they are, in microseconds.
        came_us: when they arrived, ascending.
        hidden: other values of the part come in time, and hide the late ones.
    """

    us: int
    came_us: Times
    hidden: bool = False

    def goes_on_after(self, end_us: int) -> bool:
        """Return whether values arrived for at least a minute after a moment; a single one may have been delayed."""
        since = self.came_us[self.came_us > end_us]
        return len(since) > 0 and int(np.ptp(since)) >= _SPAN_US


def steady_lag(effective_us: Times, available_us: Times) -> Lag | None:
    """Return the steady lag of the values of one code that arrived last; None: there is none.

    It needs at least three values that arrived over a minute or more, and no value that came in time long after them.
    Values that come in time are from another device, or from before the clock was set.
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


def is_in_batch(effective_us: Times, available_us: Times, at: int) -> bool:
    """Return whether a late value arrived in a batch that covers a longer time: then it describes the past, not now.

    Args:
        effective_us: when the code's values were measured.
        available_us: when they arrived.
        at: the index of the late value.
    """
    near = np.abs(available_us - available_us[at]) <= HIDDEN_US
    near &= available_us - effective_us >= BEHIND_US
    measured, came = effective_us[near], available_us[near]
    return bool(np.ptp(measured) > 2 * np.ptp(came) + _SPAN_US)


def steady_lags(history: History, codes: Mapping[str, tuple[int, ...]], *, since_us: int) -> dict[str, Lag]:
    """Return the steady lag of each part that has one.

    A lag is over when its last value no longer counts, or when other values of the part, of any code, came in time long
    after it: then the device is gone, or its clock was set.

    Args:
        history: the known values.
        codes: the codes of each part, as numbers.
        since_us: a value must be newer than this to count.
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
