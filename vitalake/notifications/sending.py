"""Sends a title and a text to any address that apprise knows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from vitalake.errors import SettingsError
from vitalake.settings import resolve_references

_log = logging.getLogger(__name__)

Send = Callable[[str, str], None]


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
            "Notifications need apprise", where="notify", remedy="In the checkout run: pip install '.[notify]'"
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
