"""Telling people who are not looking: any address that apprise knows. Never more than the lane's state in words."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitalake.errors import SettingsError
from vitalake.settings import resolve_references

_log = logging.getLogger(__name__)

Send = Callable[[str, str], None]

PATIENCE_SECONDS = 10.0
"""A pause that is over sooner is not worth waking somebody."""

MOST_REASONS = 3
"""Reasons that a notification names: the most frequent ones."""


def sender(addresses: Sequence[str], *, home: Path) -> Send:
    """Return a function that sends a title and a text to all addresses; without any it does nothing.

    Raises:
        SettingsError: apprise is not installed, or does not understand an address (it is not echoed: it holds tokens).
    """
    if not addresses:
        return lambda _title, _text: None
    try:
        import apprise
    except ImportError:
        raise SettingsError(
            "Notifications need apprise", where="notify", remedy="pip install 'vitalake[notify]'"
        ) from None
    service = apprise.Apprise()
    resolved = resolve_references({str(i): address for i, address in enumerate(addresses)}, home=home)
    for i, address in resolved.items():
        if not service.add(address):
            raise SettingsError(
                "Address is not understood", where=f"notify[{i}]", remedy="See apprise's list of forms."
            )

    def send(title: str, text: str) -> None:
        if not service.notify(title=title, body=text):
            _log.warning("notification was not delivered", extra={"what": title})

    return send


class PauseWatch:
    """Says once that a lane waits, and once that it is over."""

    def __init__(self, send: Send, *, job: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._send, self._job, self._patience = send, job, patience_seconds
        self._since: float | None = None
        self._told = False

    def observe(self, *, paused: bool, reasons: Sequence[str], now: float) -> None:
        """Look at the lane.

        Args:
            paused: whether any worker waits.
            reasons: for what, in our words.
            now: seconds, of any clock that does not go back.
        """
        if not paused:
            if self._told:
                self._send(f"vitalake: {self._job} goes on", "The lane runs again. Nothing was lost.")
            self._since, self._told = None, False
            return
        self._since = now if self._since is None else self._since
        if not self._told and now - self._since >= self._patience:
            self._told = True
            self._send(
                f"vitalake: {self._job} waits", f"{'; '.join(reasons)}. 'vitalake doctor' says what to do about it."
            )


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


class ShareWatch:
    """Says when too great a share of a window is rejected or held, and when that is over; at most once a window.

    A window ends when its time is over and enough has come to speak of a share: one of a trickle takes longer.
    """

    def __init__(
        self, send: Send, *, job: str, window_seconds: float, share: float, min_messages: int, runbook: str
    ) -> None:
        """Prepare.

        Args:
            send: takes a title and a text.
            job: whose.
            window_seconds: of a window, at least.
            share: above which it is said, of the rows rejected or of those held.
            min_messages: of a window, at least.
            runbook: where it is written what to do: an address, or a file of the documentation.
        """
        self._send, self._job, self._runbook = send, job, runbook
        self._seconds, self._share, self._least = window_seconds, share, max(min_messages, 1)
        self._begun: tuple[float, Tally] | None = None
        self._told = False

    def observe(self, tally: Tally, *, now: float) -> None:
        """Look at the job.

        Args:
            tally: so far.
            now: seconds, of any clock that does not go back.
        """
        if self._begun is None or tally.messages < self._begun[1].messages:
            self._begun = (now, tally)
            return
        began, before = self._begun
        window = tally.since(before)
        if now - began < self._seconds or window.messages < self._least:
            return
        self._begun = (now, tally)
        too_many = max(window.share(window.rejected), window.share(window.held)) > self._share
        if too_many and not self._told:
            self._tell(window, now - began)
        elif self._told and not too_many:
            text = f"{_said(window)} in the last {_minutes(now - began)}. What is open: 'vitalake dead-letters list'."
            self._send(f"vitalake: {self._job} takes its rows again", text)
        self._told = too_many

    def _tell(self, window: Tally, seconds: float) -> None:
        mainly_held = window.held > window.rejected
        share, what = (window.held, "holds") if mainly_held else (window.rejected, "rejects")
        reasons = Counter(window.reasons).most_common(MOST_REASONS)
        why = f" Most often: {', '.join(f'{reason} ({count:,})' for reason, count in reasons)}." if reasons else ""
        self._send(
            f"vitalake: {self._job} {what} {window.share(share):.0%} of its rows",
            f"{_said(window)} in the last {_minutes(seconds)}.{why} What to do: {self._runbook}",
        )


def _said(window: Tally) -> str:
    rejected, held = (f"{count:,} ({window.share(count):.1%})" for count in (window.rejected, window.held))
    return f"Of {window.rows:,} rows {rejected} were rejected and {held} held"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
