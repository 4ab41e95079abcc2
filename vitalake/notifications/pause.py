"""Notifies once when a lane waits, and once when it runs again or has ended."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vitalake.notifications.base import Notification, RuleKind, Seen


class PauseOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the rule.

    Attributes:
        patience_seconds: how long a lane must wait before somebody is notified; a shorter pause is not worth it.
    """

    patience_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0


class PauseRule:
    """Remembers since when a lane waits, and whether it has notified about it."""

    def __init__(self, job: str, options: PauseOptions) -> None:
        self._job, self._patience = job, options.patience_seconds
        self._since: float | None = None
        self._notified = False

    def observe(self, seen: Seen) -> Notification | None:
        """Return the notification to send now; None: nothing is sent."""
        if seen.ended:
            return Notification(
                f"vitalake: {self._job} has ended",
                f"{'; '.join(seen.reasons)}. It does not go on by itself: correct this, then start the stream again.",
            )
        if not seen.paused:
            notified, self._since, self._notified = self._notified, None, False
            # The rule cannot know more: a lane can also run again because a loss was accepted, or a topic made again.
            text = "The lane runs again. 'vitalake ledger' says whether messages were lost."
            return Notification(f"vitalake: {self._job} goes on", text) if notified else None
        self._since = seen.now if self._since is None else self._since
        if self._notified or seen.now - self._since < self._patience:
            return None
        self._notified = True
        return Notification(
            f"vitalake: {self._job} waits", f"{'; '.join(seen.reasons)}. Look at its log and at 'vitalake doctor'."
        )


RULE = RuleKind(
    name="pause",
    description="the lane waits for longer than `patience_seconds`, it goes on, or it has ended for good",
    options=PauseOptions,
    make=PauseRule,
)
