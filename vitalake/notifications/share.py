"""Notifies when too large a share of the rows is rejected or held, and when that is over."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import msgspec

from vitalake.notifications.base import Notification, RuleKind, Seen, Tally

MOST_REASONS = 3
"""How many reasons a notification names: the most frequent ones."""


class ShareOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the rule; the defaults are those under ``alerts`` in the configuration.

    Attributes:
        window_seconds: the shortest length of a window.
        share: the share of a window's rows, rejected or held, above which the rule notifies.
        min_messages: the smallest number of messages of a window.
        runbook_url: where people read what to do: an address, or a file of the documentation.
    """

    window_seconds: Annotated[float, msgspec.Meta(gt=0)]
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    min_messages: Annotated[int, msgspec.Meta(ge=1)]
    runbook_url: str


class ShareRule:
    """Notifies when too large a share of a window is rejected or held, and when that is over; at most once a window.

    A window ends when its time is over and it has enough messages for a share to mean something: with few messages a
    window takes longer.
    """

    def __init__(self, job: str, options: ShareOptions) -> None:
        self._job, self._runbook = job, options.runbook_url
        self._seconds, self._share, self._min_messages = options.window_seconds, options.share, options.min_messages
        self._window_start: tuple[float, Tally] | None = None
        self._notified = False

    def observe(self, seen: Seen) -> Notification | None:
        """Return the notification to send now; None: nothing is sent."""
        tally, now = seen.tally, seen.now
        if self._window_start is None or tally.messages < self._window_start[1].messages:
            self._window_start = (now, tally)
            return None
        began, before = self._window_start
        window = tally.since(before)
        if now - began < self._seconds or window.messages < self._min_messages:
            return None
        self._window_start = (now, tally)
        too_many = max(window.share(window.rejected), window.share(window.held)) > self._share
        notified, self._notified = self._notified, too_many
        if too_many == notified:
            return None
        return self._too_many(window, now - began) if too_many else self._over(window, now - began)

    def _over(self, window: Tally, seconds: float) -> Notification:
        text = f"{_counts(window)} in the last {_minutes(seconds)}. 'vitalake dead-letters list' shows what is open."
        return Notification(f"vitalake: {self._job} takes its rows again", text)

    def _too_many(self, window: Tally, seconds: float) -> Notification:
        mainly_held = window.held > window.rejected
        share, what = (window.held, "holds") if mainly_held else (window.rejected, "rejects")
        reasons = Counter(window.reasons).most_common(MOST_REASONS)
        why = f" Most often: {', '.join(f'{reason} ({count:,})' for reason, count in reasons)}." if reasons else ""
        return Notification(
            f"vitalake: {self._job} {what} {window.share(share):.0%} of its rows",
            f"{_counts(window)} in the last {_minutes(seconds)}.{why} What to do: {self._runbook}",
        )


def _counts(window: Tally) -> str:
    rejected, held = (f"{count:,} ({window.share(count):.1%})" for count in (window.rejected, window.held))
    return f"Of {window.rows:,} rows {rejected} were rejected and {held} held"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


RULE = RuleKind(
    name="share",
    description="more than `share` of a window's rows were rejected or held, and that is over",
    options=ShareOptions,
    make=ShareRule,
)
