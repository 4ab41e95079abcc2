"""Whether two regular expressions have a text in common: a form of a home, and the dates that people write.

Both become automata, which then read the same text together. So no text is made up, and no memory is kept for them:
enumerated, the dates of one form with three signs took 50 MB and half a second.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from vitalake.vocabulary.openness import characters, op, parse

LONGEST = 32
"""Repetitions that are told apart: no date has so many characters. More of them are matched like so many."""

_Step = tuple[frozenset[str] | None, int]
"""A step of an automaton: the characters that it reads, or None if it reads nothing; and the state that it leads to."""

_END = 0


class Automaton:
    """The automaton of a pattern that ``openness`` takes."""

    def __init__(self, pattern: str) -> None:
        self._steps: list[list[_Step]] = [[]]
        self._readings: dict[int, tuple[frozenset[_Step], bool]] = {}
        self.start = self._sequence(parse(pattern), _END)

    def readings(self, state: int) -> tuple[frozenset[_Step], bool]:
        """Return the steps from a state that read a character, and whether the pattern can end there."""
        if state not in self._readings:
            seen, waiting, found = {state}, [state], set[_Step]()
            while waiting:
                for step in self._steps[waiting.pop()]:
                    if step[0] is not None:
                        found.add(step)
                    elif step[1] not in seen:
                        seen.add(step[1])
                        waiting.append(step[1])
            self._readings[state] = frozenset(found), _END in seen
        return self._readings[state]

    def _state(self, *steps: _Step) -> int:
        self._steps.append([*steps])
        return len(self._steps) - 1

    def _sequence(self, items: Any, then: int) -> int:
        """Return the state from which the items of a tree are read, before what is read from the state ``then``."""
        for operator, argument in reversed(items):
            then = self._item(operator, argument, then)
        return then

    def _item(self, operator: Any, argument: Any, then: int) -> int:
        if operator is op.AT:
            return then
        if operator is op.SUBPATTERN:
            return self._sequence(argument[3], then)
        if operator is op.BRANCH:
            return self._state(*((None, self._sequence(branch, then)) for branch in argument[1]))
        if operator in (op.MAX_REPEAT, op.MIN_REPEAT):
            return self._repeated(argument[0], argument[1], argument[2], then)
        return self._state((characters(operator, argument), then))

    def _repeated(self, least: int, most: Any, items: Any, then: int) -> int:
        if most is op.MAXREPEAT:
            then = self._state((None, then))
            self._steps[then].append((None, self._sequence(items, then)))
        else:
            last = then
            for _ in range(min(int(most), LONGEST) - min(int(least), LONGEST)):
                then = self._state((None, self._sequence(items, then)), (None, last))
        for _ in range(min(int(least), LONGEST)):
            then = self._sequence(items, then)
        return then


def overlap(one: Automaton, other: Automaton) -> bool:
    """Return whether two patterns have a text in common."""
    seen = {(one.start, other.start)}
    waiting = [*seen]
    while waiting:
        here, there = waiting.pop()
        (mine, ends), (others, other_ends) = one.readings(here), other.readings(there)
        if ends and other_ends:
            return True
        for read, to in mine:
            for other_read, other_to in others:
                if (to, other_to) not in seen and not read.isdisjoint(other_read):  # type: ignore[union-attr, arg-type]
                    seen.add((to, other_to))
                    waiting.append((to, other_to))
    return False


@cache
def known(pattern: str) -> Automaton:
    """Return the automaton of a pattern of dates.py, made once."""
    return Automaton(pattern)
