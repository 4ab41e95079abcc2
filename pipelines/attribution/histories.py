"""The histories of many devices in arrays, in which a poll's rows find their owners at a million rows a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.attribution.timeline import Fact, Owner, Step, distinct, steps_at

NOBODY = -1
"""In the place of an owner: no association gives one, or ever gave one after the value became known."""

SEVERAL = -2
"""In the place of an owner: the owner has changed since the value became known; ``steps`` says how."""

FORGOTTEN = -3
"""In the place of an owner: it is a patient who was forgotten."""

_UNKNOWN = -9
"""In the place of an owner: not computed yet."""

_EARLIEST = -(1 << 63)


@dataclass(slots=True)
class _History:
    """A device's facts, and where its intervals lie in the pool."""

    facts: list[Fact]
    begin: int
    length: int
    steps: dict[int, tuple[Step, ...]] = field(default_factory=dict)


class Histories:
    """The time of each device, cut into intervals within which every moment has the same owners.

    The intervals of all devices lie one behind the other in one pool of arrays. A device that changes gets new
    intervals at the end of the pool. An interval's owner is computed when it is first asked for.
    """

    def __init__(self) -> None:
        self.owners: list[Owner] = []
        self._owner_numbers: dict[Owner, int] = {}
        self._devices: list[_History] = []
        self._numbers: dict[bytes, int] = {}
        self._stale: set[bytes] = set()
        self._used = 0
        self._starts = np.zeros(0, np.int64)
        self._winner = np.zeros(0, np.int32)
        self._settled = np.zeros(0, np.int64)
        self._since = np.zeros(0, np.int64)
        self._begin = np.zeros(0, np.int64)
        self._length = np.zeros(0, np.int64)
        self._count = np.zeros(0, np.int64)

    def __contains__(self, device: bytes) -> bool:
        """Return whether a device has a history that is up to date."""
        return device in self._numbers and device not in self._stale

    def outdate(self, device: bytes) -> None:
        """Mark a device's history as out of date: it must be put again before it is used."""
        self._stale.add(device)

    def number(self, device: bytes) -> int:
        """Return a device's number; -1: it has no history."""
        return self._numbers.get(device, -1)

    def count(self, number: int) -> int:
        """Return how many facts of a device are known."""
        return int(self._count[number])

    def counts(self, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many facts of each device are known; 0 for -1."""
        found: npt.NDArray[np.int64] = np.where(number >= 0, np.append(self._count, 0)[number], 0)
        return found

    def put(self, device: bytes, facts: Iterable[Fact]) -> int:
        """Replace all facts of a device; return its number."""
        known = distinct(facts)
        moments = {fact.valid_from for fact in known} | {fact.valid_to for fact in known}
        starts = np.array([_EARLIEST, *sorted(moments - {_EARLIEST})], np.int64)
        history = _History(known, self._used, len(starts))
        self._grow(len(starts))
        self._starts[history.begin : self._used] = starts
        self._winner[history.begin : self._used] = _UNKNOWN
        self._stale.discard(device)
        number = self._numbers.setdefault(device, len(self._devices))
        if number == len(self._devices):
            self._devices.append(history)
            self._begin = np.append(self._begin, 0)
            self._length = np.append(self._length, 0)
            self._count = np.append(self._count, 0)
        self._devices[number] = history
        self._count[number] = len(known)
        self._begin[number], self._length[number] = history.begin, history.length
        return number

    def _grow(self, count: int) -> None:
        self._used += count
        if self._used > len(self._starts):
            room = max(1024, self._used)  # at least doubles the pool
            self._starts, self._settled, self._since = (
                np.append(old, np.zeros(room, np.int64)) for old in (self._starts, self._settled, self._since)
            )
            self._winner = np.append(self._winner, np.zeros(room, np.int32))

    def find(
        self, number: npt.NDArray[np.int64], at_us: npt.NDArray[np.int64], available_us: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return for each value the index of its owner in ``owners``, and when the owner became known.

        The index can also be NOBODY, SEVERAL or FORGOTTEN.

        Args:
            number: number of each value's device; -1: a device without a history.
            at_us: when each value was measured.
            available_us: when each value became known.
        """
        owner, known_us = np.full(len(number), NOBODY, np.int32), available_us.copy()
        known = np.flatnonzero(number >= 0)
        if not len(known):
            return owner, known_us
        place = self._places(number[known], at_us[known])
        winner = self._winner[place]
        if (winner == _UNKNOWN).any():
            missing, first = np.unique(place[winner == _UNKNOWN], return_index=True)
            for i, which in zip(missing.tolist(), number[known][winner == _UNKNOWN][first].tolist(), strict=True):
                self._settle(i, self._devices[which])
            winner = self._winner[place]
        owner[known] = np.where(available_us[known] >= self._settled[place], winner, SEVERAL)
        known_us[known] = np.maximum(available_us[known], self._since[place])
        return owner, known_us

    def _places(self, number: npt.NDArray[np.int64], at_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the interval of the pool in which each moment lies; all binary searches run at once."""
        base, size = self._begin[number], self._length[number]
        for _ in range(int(size.max()).bit_length()):
            half = size >> 1
            middle = base + half
            base = np.where(self._starts[middle] <= at_us, middle, base)
            size = size - half
        return base

    def _settle(self, place: int, history: _History) -> None:
        steps = self._steps(history, place)
        self._winner[place] = self._owner(steps[-1].owner) if steps else NOBODY
        # An owner that never changed is the same for all values. One that changed is the last one for values that
        # became known after the last change; of earlier values the caller asks for the steps.
        self._settled[place] = steps[-1].since_us if len(steps) > 1 else _EARLIEST
        self._since[place] = steps[0].since_us if len(steps) == 1 else _EARLIEST

    def _steps(self, history: _History, place: int) -> tuple[Step, ...]:
        if place not in history.steps:
            history.steps[place] = steps_at(history.facts, int(self._starts[place]))
        return history.steps[place]

    def _owner(self, owner: Owner | None) -> int:
        if owner is None:
            return NOBODY
        if owner.patient is None:
            return FORGOTTEN
        number = self._owner_numbers.setdefault(owner, len(self.owners))
        if number == len(self.owners):
            self.owners.append(owner)
        return number

    def facts(self, number: int) -> Sequence[Fact]:
        """Return all facts of a device, including those that were replaced."""
        return self._devices[number].facts

    def steps(self, number: int, at_us: int) -> tuple[Step, ...]:
        """Return how the known owner of a device's value has changed over time; see timeline.steps_at."""
        history = self._devices[number]
        place = int(self._places(np.array([number]), np.array([at_us]))[0])
        return self._steps(history, place)
