"""Says when too great a share of the rows is rejected or held, and when that is over."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import msgspec

from vitalake.notifications.base import Notification, RuleKind, Seen, Tally

MOST_REASONS = 3
"""Reasons that a notification names: the most frequent ones."""


class ShareOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is too much; by default what ``alerts`` of the configuration says.

    Attributes:
        window_seconds: of a window, at least.
        share: above which it is said, of the rows rejected or of those held.
        min_messages: of a window, at least.
        runbook_url: where it is written what to do: an address, or a file of the documentation.
    """

    window_seconds: Annotated[float, msgspec.Meta(gt=0)]
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    min_messages: Annotated[int, msgspec.Meta(ge=1)]
    runbook_url: str


class ShareRule:
    """Says when too great a share of a window is rejected or held, and when that is over; at most once a window.

    A window ends when its time is over and enough has come to speak of a share: one of a trickle takes longer.
    """

    def __init__(self, job: str, options: ShareOptions) -> None:
        self._job, self._runbook = job, options.runbook_url
        self._seconds, self._share, self._least = options.window_seconds, options.share, options.min_messages
        self._begun: tuple[float, Tally] | None = None
        self._told = False

    def observe(self, seen: Seen) -> Notification | None:
        """Return what is to be told now; None: nothing."""
        tally, now = seen.tally, seen.now
        if self._begun is None or tally.messages < self._begun[1].messages:
            self._begun = (now, tally)
            return None
        began, before = self._begun
        window = tally.since(before)
        if now - began < self._seconds or window.messages < self._least:
            return None
        self._begun = (now, tally)
        too_many = max(window.share(window.rejected), window.share(window.held)) > self._share
        told, self._told = self._told, too_many
        if too_many == told:
            return None
        return self._too_many(window, now - began) if too_many else self._over(window, now - began)

    def _over(self, window: Tally, seconds: float) -> Notification:
        text = f"{_said(window)} in the last {_minutes(seconds)}. What is open: 'vitalake dead-letters list'."
        return Notification(f"vitalake: {self._job} takes its rows again", text)

    def _too_many(self, window: Tally, seconds: float) -> Notification:
        mainly_held = window.held > window.rejected
        share, what = (window.held, "holds") if mainly_held else (window.rejected, "rejects")
        reasons = Counter(window.reasons).most_common(MOST_REASONS)
        why = f" Most often: {', '.join(f'{reason} ({count:,})' for reason, count in reasons)}." if reasons else ""
        return Notification(
            f"vitalake: {self._job} {what} {window.share(share):.0%} of its rows",
            f"{_said(window)} in the last {_minutes(seconds)}.{why} What to do: {self._runbook}",
        )


def _said(window: Tally) -> str:
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
