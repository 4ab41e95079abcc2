"""Notification rules: a rule observes a lane's state, in words and counts, and decides when people are notified.

Built-in rules and those of other packages are made in the same way: a ``RuleKind`` in a module of its own, and a line
under ``vitalake.notifications`` in the entry points of the package. A rule sees no rows and sends nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the messages and rows that a job has read so far; the counts only grow.

    Attributes:
        messages: messages that were read.
        rows: their rows; a message that cannot be decoded counts as one row.
        rejected: rows that went to the dead letters.
        held: rows that are held until their patient is known.
        reasons: reason code → messages rejected for it.
    """

    messages: int = 0
    rows: int = 0
    rejected: int = 0
    held: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def since(self, before: Tally) -> Tally:
        """Return what was added since an earlier tally."""
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
    """The state of a lane at one moment.

    Attributes:
        paused: whether any worker waits.
        reasons: for what the workers wait, or why the lane has ended; never with a value of a patient.
        tally: what became of the messages and rows read so far.
        now: seconds, of any monotonic clock.
        ended: whether the lane has ended because of an error, and does not go on by itself: it is ``paused`` for good,
            and this is the last state.
    """

    paused: bool
    reasons: Sequence[str]
    tally: Tally
    now: float
    ended: bool = False


class Notification(NamedTuple):
    """A notification: its title and text describe the lane's state and contain no values."""

    title: str
    text: str


class Rule(Protocol):
    """Observes one lane, several times a second."""

    def observe(self, seen: Seen) -> Notification | None:
        """Return the notification to send now; None: nothing is sent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleKind:
    """A kind of notification rule, as a package registers it.

    Attributes:
        name: the name in the configuration.
        description: when the rule notifies, in words.
        options: a strict msgspec struct (frozen, unknown fields forbidden): what ``notify_when`` has below the name.
        make: makes the rule, from the lane's name and the options.
    """

    name: str
    description: str
    options: type[msgspec.Struct]
    make: Callable[[str, Any], Rule]
