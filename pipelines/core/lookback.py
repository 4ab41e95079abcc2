"""Recognises rows that came recently: a hash table of fingerprints in numpy, bounded by entries and by time."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Fingerprints = npt.NDArray[np.uint64]  # shape (n, 2)

_LOAD: Final = 2  # slots per entry: a table that is at most half full needs few probes


class _Generation:
    """An open-addressing set of 128-bit fingerprints; (0, ·) marks an empty slot."""

    def __init__(self, entries: int) -> None:
        slots = 1 << (entries * _LOAD - 1).bit_length()
        self.mask = np.uint64(slots - 1)
        # Unlike zeros, full writes to the memory: it is taken now and does not grow while a backlog is read.
        self.high, self.low = np.full(slots, 0, np.uint64), np.full(slots, 0, np.uint64)
        self.count = 0

    def clear(self) -> None:
        self.high.fill(0)
        self.low.fill(0)
        self.count = 0

    def contains(self, prints: Fingerprints) -> npt.NDArray[np.bool_]:
        """Return which fingerprints are in the set."""
        found = np.zeros(len(prints), np.bool_)
        if not self.count:
            return found
        high, low = np.ascontiguousarray(prints[:, 0]), prints[:, 1]
        active, slot = np.arange(len(prints)), low & self.mask
        while len(active):
            held = self.high[slot]
            alike = np.flatnonzero(held == high[active])
            found[active[alike[self.low[slot[alike]] == low[active[alike]]]]] = True
            on = np.flatnonzero((held != 0) & ~found[active])
            active, slot = active[on], (slot[on] + np.uint64(1)) & self.mask
        return found

    def insert(self, prints: Fingerprints) -> None:
        """Insert fingerprints that are distinct and not in the set."""
        high, low = np.ascontiguousarray(prints[:, 0]), np.ascontiguousarray(prints[:, 1])
        slot = low & self.mask
        self.count += len(high)
        while len(high):
            free = self.high[slot] == 0
            if not free.all():
                taken = np.flatnonzero(~free)
                waiting = high[taken], low[taken], slot[taken]
                high, low, slot = high[free], low[free], slot[free]
            else:
                waiting = high[:0], low[:0], slot[:0]
            self.high[slot] = high
            self.low[slot] = low
            # Several can have chosen one slot: the one written last has it, the others try the next slot.
            lost = np.flatnonzero((self.high[slot] != high) | (self.low[slot] != low))
            high = np.concatenate([waiting[0], high[lost]])
            low = np.concatenate([waiting[1], low[lost]])
            slot = (np.concatenate([waiting[2], slot[lost]]) + np.uint64(1)) & self.mask


def first_occurrences(prints: Fingerprints) -> npt.NDArray[np.bool_]:
    """Return for each fingerprint whether it is the first of its kind in the array."""
    first = np.ones(len(prints), np.bool_)
    remaining = np.arange(len(prints))
    shift = np.uint64(0)
    while len(remaining):
        bits = np.uint64(max(len(remaining) * 4 - 1, 1).bit_length())
        bucket = (prints[remaining, 0] >> shift) & ((np.uint64(1) << bits) - np.uint64(1))
        owner = np.zeros(1 << int(bits), np.int64)
        owner[bucket[::-1]] = remaining[::-1]  # assigned backwards, so that the first of a bucket is written last
        owners = owner[bucket]
        same = (prints[owners] == prints[remaining]).all(axis=1)
        first[remaining[same & (owners != remaining)]] = False
        remaining = remaining[~same]  # a different fingerprint owns the bucket: try other bits in the next round
        shift = (shift + np.uint64(7)) % np.uint64(40)
    return first


class LookBack:
    """Recognises repeats among at least the last ``entries`` rows or the rows of the last ``seconds``.

    There are two generations. Rows are looked up in both and inserted into the younger one. When the younger one is
    full or too old, the older one is emptied and becomes the younger: at most twice as much is remembered. Lookups and
    inserts are vectorised; memory is taken once.
    """

    def __init__(self, *, entries: int, seconds: float) -> None:
        self.entries = entries
        self.seconds = seconds
        self._young, self._old = _Generation(entries), _Generation(entries)
        self._born = 0.0

    def clear(self) -> None:
        """Forget everything."""
        self._young.clear()
        self._old.clear()

    def admit(self, prints: Fingerprints, *, now: float, older: Fingerprints | None = None) -> npt.NDArray[np.bool_]:
        """Return which rows are new, and remember them.

        Args:
            prints: (n, 2) fingerprints in order of arrival.
            now: seconds, of any monotonic clock.
            older: fingerprints of the same rows in the form of an earlier release, which are looked up too.
        """
        if len(prints) == 0:
            return np.zeros(0, np.bool_)
        prints = np.ascontiguousarray(prints)
        prints[:, 0] |= np.uint64(1)  # zero marks an empty slot; this gives up one bit of 128
        new = first_occurrences(prints)
        candidates = np.flatnonzero(new)
        seen = self._contains(prints[candidates])
        if older is not None:
            also = np.ascontiguousarray(older[candidates])
            also[:, 0] |= np.uint64(1)
            seen |= self._contains(also)
        new[candidates[seen]] = False
        fresh = prints[new]
        for begin in range(0, len(fresh), self.entries):
            self._insert(fresh[begin : begin + self.entries], now)
        return new

    def _contains(self, prints: Fingerprints) -> npt.NDArray[np.bool_]:
        return self._young.contains(prints) | self._old.contains(prints)

    def _insert(self, fresh: Fingerprints, now: float) -> None:
        full = self._young.count + len(fresh) > self.entries
        if full or now - self._born > self.seconds:
            self._young, self._old = self._old, self._young
            self._young.clear()
            self._born = now
        self._young.insert(fresh)
