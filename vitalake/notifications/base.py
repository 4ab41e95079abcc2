"""What a notification rule is: it sees a lane's state in words and counts, and says what people should be told.

Built-in rules and those of other packages are the same thing: a ``RuleKind`` in a module of its own, and a line under
``vitalake.notifications`` in the entry points of the package. A rule sees no row and sends nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of what a job has read so far; only ever more.

    Attributes:
        messages: that were read.
        rows: they had; one that cannot be decoded counts as one.
        rejected: rows that went to the dead letters.
        held: rows that wait to be told whose they are.
        reasons: reason code → messages rejected for it.
    """

    messages: int = 0
    rows: int = 0
    rejected: int = 0
    held: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def since(self, before: Tally) -> Tally:
        """Return what has come since."""
        return Tally(
            self.messages - before.messages,
            self.rows - before.rows,
            self.rejected - before.rejected,
            self.held - before.held,
            dict(Counter(self.reasons) - Counter(before.reasons)),
        )

    def share(self, count: int) -> float:
        """Return a count as a share of the rows."""
        return count / self.rows if self.rows else 0.0


class Seen(NamedTuple):
    """A lane at a moment.

    Attributes:
        paused: whether any worker waits.
        reasons: for what, in our words.
        tally: what became of what it has read so far.
        now: seconds, of any clock that does not go back.
    """

    paused: bool
    reasons: Sequence[str]
    tally: Tally
    now: float


class Notification(NamedTuple):
    """What people are told: never more than the lane's state in words."""

    title: str
    text: str


class Rule(Protocol):
    """Looks at one lane, several times a second."""

    def observe(self, seen: Seen) -> Notification | None:
        """Return what is to be told now; None: nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleKind:
    """A notification rule as it is registered.

    Attributes:
        name: as the configuration names it.
        description: when it tells what, in words.
        options: a strict msgspec struct (frozen, unknown fields forbidden): what ``notify_when`` has below the name.
        make: the lane's name and the options → the rule.
    """

    name: str
    description: str
    options: type[msgspec.Struct]
    make: Callable[[str, Any], Rule]
