"""Telling people who are not looking: any address that apprise knows. Never more than the lane's state in words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from vitalake.errors import SettingsError
from vitalake.settings import resolve_references

_log = logging.getLogger(__name__)

Send = Callable[[str, str], None]

PATIENCE_SECONDS = 10.0
"""A pause that is over sooner is not worth waking somebody."""


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
