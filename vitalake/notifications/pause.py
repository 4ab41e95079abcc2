"""Says once that a lane waits, and once that it is over."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vitalake.notifications.base import Notification, RuleKind, Seen


class PauseOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pause that is over sooner is not worth waking somebody."""

    patience_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0


class PauseRule:
    """Remembers since when a lane waits, and whether it was told."""

    def __init__(self, job: str, options: PauseOptions) -> None:
        self._job, self._patience = job, options.patience_seconds
        self._since: float | None = None
        self._told = False

    def observe(self, seen: Seen) -> Notification | None:
        """Return what is to be told now; None: nothing."""
        if not seen.paused:
            told, self._since, self._told = self._told, None, False
            over = Notification(f"vitalake: {self._job} goes on", "The lane runs again. Nothing was lost.")
            return over if told else None
        self._since = seen.now if self._since is None else self._since
        if self._told or seen.now - self._since < self._patience:
            return None
        self._told = True
        return Notification(
            f"vitalake: {self._job} waits", f"{'; '.join(seen.reasons)}. 'vitalake doctor' says what to do about it."
        )


RULE = RuleKind(
    name="pause",
    description="the lane waits for longer than `patience_seconds`, and it goes on",
    options=PauseOptions,
    make=PauseRule,
)
