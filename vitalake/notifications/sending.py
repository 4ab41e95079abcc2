"""Sends a title and a text to any address that apprise supports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vitalake.errors import SettingsError
from vitalake.settings import resolve_references

if TYPE_CHECKING:
    from apprise import Apprise

Send = Callable[[str, str], bool]
"""Sends a title and a text to one address; returns whether it has taken them."""


class Address(NamedTuple):
    """An address to notify.

    Attributes:
        where: its place in the configuration; the address itself can contain a token.
        send: sends to it.
    """

    where: str
    send: Send


def addresses(configured: Sequence[str], *, home: Path) -> list[Address]:
    """Return the addresses under ``notify``; an entry with several addresses, as apprise allows, gives several.

    Raises:
        SettingsError: apprise is not installed, or does not support an address. The error does not show the address,
            which can contain a token.
    """
    if not configured:
        return []
    try:
        from apprise import Apprise, AppriseAsset
    except ImportError:
        raise SettingsError(
            "Notifications need apprise", where="notify", remedy="Run in the checkout: pip install '.[notify]'"
        ) from None
    # With a timeout apprise sends in a pool of threads of its own, which all addresses share: those that hang fill it,
    # and the end of the process waits for them.
    asset = AppriseAsset(service_timeout=0)
    found: list[Address] = []
    resolved = resolve_references({str(i): address for i, address in enumerate(configured)}, home=home)
    for i, address in resolved.items():
        where, services = f"notify[{i}]", Apprise(asset=asset)
        if not services.add(address):
            raise SettingsError(
                "Address of notifications is not valid",
                where=where,
                remedy="Write it in one of the forms that apprise's documentation lists.",
            )
        found += [Address(where, _sending(Apprise(service))) for service in services]
    return found


def _sending(service: Apprise) -> Send:
    def send(title: str, text: str) -> bool:
        return bool(service.notify(title=title, body=text))

    return send
