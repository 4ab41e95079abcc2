"""Where something stands in a device's JSON: a small part of JSONPath, compiled once."""

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
    """A path, split where the readings are.

    Attributes:
        text: as it is written.
        outer: steps from the message; all of them where there is no ``[*]``.
        inner: steps from one reading; None where there is no ``[*]``.
    """

    text: str
    outer: tuple[Step, ...]
    inner: tuple[Step, ...] | None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return all steps, EACH for ``[*]``."""
        return self.outer if self.inner is None else (*self.outer, EACH, *self.inner)


def parse_path(text: str) -> Path:
    """Return the path of ``$.a.b``, ``$['a b'][0]`` or ``$.readings[*].value``.

    Raises:
        ValueError: it is no path, or has more than one ``[*]``.
    """
    steps: list[Step] = []
    position = 1
    while position < len(text):
        found = _STEP.match(text, position)
        if found is None:
            break
        position = found.end()
        if found["each"]:
            steps.append(EACH)
        elif found["index"]:
            steps.append(int(found["index"]))
        else:
            steps.append(f".{found['name'] or found['quoted']}")
    if not text.startswith("$") or position < len(text) or steps.count(EACH) > 1:
        raise ValueError("write $.a.b, $['a b'], [0], and [*] at most once")
    if EACH not in steps:
        return Path(text, tuple(steps), None)
    split = steps.index(EACH)
    return Path(text, tuple(steps[:split]), tuple(steps[split + 1 :]))
