"""Paths into a device's JSON: a small part of JSONPath, parsed once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_STEP = re.compile(r"\.(?P<name>[A-Za-z_][\w-]*)|\['(?P<quoted>[^'\\]+)'\]|\[(?P<index>\d{1,4})\]|(?P<each>\[\*\])")
EACH = "*"

Step = str | int
Getter = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Path:
    """A path, split at ``[*]``, where the readings are.

    Attributes:
        text: the path as written in the profile.
        outer: steps from the message; all steps if there is no ``[*]``.
        inner: steps from one reading; None if there is no ``[*]``.
    """

    text: str
    outer: tuple[Step, ...]
    inner: tuple[Step, ...] | None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return all steps, with EACH for ``[*]``."""
        return self.outer if self.inner is None else (*self.outer, EACH, *self.inner)


def parse_path(text: str) -> Path:
    """Parse a path such as ``$.a.b``, ``$['a b'][0]`` or ``$.readings[*].value``.

    Raises:
        ValueError: the text is not a path, or has more than one ``[*]``.
    """
    steps: list[Step] = []
    position = 1
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            break
        position = match.end()
        if match["each"]:
            steps.append(EACH)
        elif match["index"]:
            steps.append(int(match["index"]))
        else:
            steps.append(f".{match['name'] or match['quoted']}")
    if not text.startswith("$") or position < len(text) or steps.count(EACH) > 1:
        raise ValueError("write $.a.b, $['a b'], [0], and [*] at most once")
    if EACH not in steps:
        return Path(text, tuple(steps), None)
    split = steps.index(EACH)
    return Path(text, tuple(steps[:split]), tuple(steps[split + 1 :]))
