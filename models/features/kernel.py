"""The feature kernel: computes the feature vector of a patient as of a moment, for both training and serving.

It uses only what was known at that moment (``available_us``), and only relative times. The vector does not depend on
the order of the rows, nor on codes that the set does not name. Where nothing is known it has NaN, never zero; only a
count of nothing is 0, because that is known. A rate of 0 is an event, not a value: the mean of a probe that fell off
does not describe the patient.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.features.declaration import UNUSED, FeatureSet
from vitalake.clinical.records import History

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

US_PER_HOUR = 3_600_000_000
SHORTEST_SLOPE_US = US_PER_HOUR // 2
"""Values over a shorter time have no slope: two readings a minute apart could give any slope."""

_TIME_BITS = 44
"""Bits for the relative time in a sort key of item and time: ± 100 days of microseconds."""


def features(
    feature_set: FeatureSet,
    history: History,
    *,
    as_of_us: int,
    window_hours: float,
    age_years: float | None,
    sex: str,
) -> Floats:
    """Return the vector of a patient as of a moment, with ``len(feature_set.names)`` columns.

    Args:
        feature_set: the columns.
        history: the patient's rows in any order; order by time is fastest.
        as_of_us: the moment; rows that are available or effective later do not count.
        window_hours: rows that were effective this long before the moment, or earlier, do not count; at most 1,000.
        age_years: None is unknown.
        sex: female, male; anything else is unknown.
    """
    item, relative_us, value = _select(feature_set, history, as_of_us, int(window_hours * US_PER_HOUR))
    starts, ends, whole = _cells(feature_set, item, relative_us)
    vector = np.full(len(feature_set.names), np.nan)
    _fill(vector, feature_set, _Cells(starts, ends, relative_us, value))
    person = len(vector) - len(feature_set.derived) - 3
    vector[person] = np.nan if age_years is None else age_years
    vector[person + 1] = {"female": 1.0, "male": 0.0}.get(sex, np.nan)
    if whole:
        vector[person + 2] = -float(relative_us.min()) / US_PER_HOUR
    for column, (first, second, factor) in enumerate(feature_set.ratios, start=person + 3):
        if vector[second] != 0:
            vector[column] = factor * vector[first] / vector[second]
    return vector


def _select(
    feature_set: FeatureSet, history: History, as_of_us: int, window_us: int
) -> tuple[npt.NDArray[np.uint8], Integers, Floats]:
    """Return item, time relative to the moment (µs, ≤ 0) and value of the rows that count, sorted by item and time.

    Values of one item and moment are in order of arrival; values that arrived together are in ascending order.
    """
    table = feature_set.item_of_code
    item = table[np.minimum(history.code, len(table) - 1)]
    relative = history.effective_us - as_of_us
    counts = (relative <= 0) & (relative > -window_us) & (history.available_us <= as_of_us)
    measured = np.isfinite(history.value) & (history.value >= feature_set.least[item])
    item[~(counts & measured)] = UNUSED
    used = int(np.count_nonzero(item != UNUSED))
    if (relative[1:] < relative[:-1]).any():
        order = np.lexsort((relative, item))[:used]
    else:
        order = np.argsort(item, kind="stable")[:used]  # keys of one byte: NumPy uses a radix sort
    chosen, relative_us = item[order], relative[order]
    if ((chosen[1:] == chosen[:-1]) & (relative_us[1:] == relative_us[:-1])).any():
        order = order[np.lexsort((history.value[order], history.available_us[order], relative_us, chosen))]
    return chosen, relative_us, history.value[order]


def _cells(
    feature_set: FeatureSet, item: npt.NDArray[np.uint8], relative_us: Integers
) -> tuple[Integers, Integers, int]:
    """Return where the rows of each cell (window × item) begin and end, and the number of all rows."""
    count = len(feature_set.items)
    edges = np.searchsorted(item, np.arange(count + 1, dtype=np.uint8))
    starts = [edges[:-1]]
    if len(feature_set.hours) > 1:
        key = (item.astype(np.int64) << _TIME_BITS) + relative_us
        base = np.arange(count, dtype=np.int64) << _TIME_BITS
        starts += [np.searchsorted(key, base - h * US_PER_HOUR, side="right") for h in feature_set.hours[1:] if h]
    return np.concatenate(starts), np.tile(edges[1:], len(starts)), len(item)


class _Cells:
    """Statistics over ranges of sorted rows, for all ranges at once; NaN where a range is empty."""

    def __init__(self, starts: Integers, ends: Integers, relative_us: Integers, value: Floats) -> None:
        self._filled = np.flatnonzero(starts < ends)
        self._first, self._end = starts[self._filled], ends[self._filled]
        self._size, self._relative_us, self._value = len(starts), relative_us, value
        # Ranges overlap, so reduceat gets a pair of positions for each; every second result lies between two ranges and
        # is dropped.
        self._pairs = np.column_stack([self._first, self._end]).ravel()

    def _spread(self, found: Floats, *, otherwise: float = np.nan) -> Floats:
        out = np.full(self._size, otherwise)
        out[self._filled] = found
        return out

    def _reduce(self, ufunc: np.ufunc, array: Floats) -> Floats:
        if not len(self._filled):
            return np.zeros(0)
        return ufunc.reduceat(np.append(array, 0.0), self._pairs)[
            ::2
        ]  # reduceat needs an entry after the last position

    def last(self) -> Floats:
        return self._spread(self._value[self._end - 1])

    def first(self) -> Floats:
        return self._spread(self._value[self._first])

    def min(self) -> Floats:
        return self._spread(self._reduce(np.minimum, self._value))

    def max(self) -> Floats:
        return self._spread(self._reduce(np.maximum, self._value))

    def sum(self) -> Floats:
        return self._spread(self._reduce(np.add, self._value))

    def mean(self) -> Floats:
        return self._spread(self._reduce(np.add, self._value) / (self._end - self._first))

    def count(self) -> Floats:
        return self._spread((self._end - self._first).astype(np.float64), otherwise=0.0)

    def hours_since(self) -> Floats:
        return self._spread(-self._relative_us[self._end - 1] / US_PER_HOUR)

    def slope(self) -> Floats:
        """Return the least-squares change per hour; NaN where the values span less than SHORTEST_SLOPE_US."""
        time = self._relative_us / US_PER_HOUR
        n = (self._end - self._first).astype(np.float64)
        total, moment = self._reduce(np.add, time), self._reduce(np.add, time * time)
        span = self._relative_us[self._end - 1] - self._relative_us[self._first] >= SHORTEST_SLOPE_US
        above = self._reduce(np.add, time * self._value) - total * self._reduce(np.add, self._value) / n
        below = np.where(span, moment - total * total / n, np.nan)
        return self._spread(above / below)


def _fill(vector: Floats, feature_set: FeatureSet, cells: _Cells) -> None:
    for name, cell, column in feature_set.sources:
        vector[column] = getattr(cells, name)()[cell]
