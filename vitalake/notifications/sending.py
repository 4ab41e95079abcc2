"""Sends a title and a text to any address that apprise supports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from vitalake.errors import SettingsError
from vitalake.settings import resolve_references

_log = logging.getLogger(__name__)

Send = Callable[[str, str], bool]
"""Sends a title and a text; returns whether every address has taken it."""


def sender(addresses: Sequence[str], *, home: Path) -> Send:
    """Return a function that sends a title and a text to all addresses; without addresses it does nothing.

    Raises:
        SettingsError: apprise is not installed, or does not support an address. The error does not show the address,
            which can contain a token.
    """
    if not addresses:
        return lambda _title, _text: True
    try:
        import apprise
    except ImportError:
        raise SettingsError(
            "Notifications need apprise", where="notify", remedy="Run in the checkout: pip install '.[notify]'"
        ) from None
    service = apprise.Apprise()
    resolved = resolve_references({str(i): address for i, address in enumerate(addresses)}, home=home)
    for i, address in resolved.items():
        if not service.add(address):
            raise SettingsError(
                "Address of notifications is not valid",
                where=f"notify[{i}]",
                remedy="Write it in one of the forms that apprise's documentation lists.",
            )

    def send(title: str, text: str) -> bool:
        return bool(service.notify(title=title, body=text))

    return send
