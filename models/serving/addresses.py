"""Which addresses are this machine's own: only there may people sign in without a password, over plain HTTP."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from vitalake.errors import PrivacyError, SettingsError

Resolved = tuple[socket.AddressFamily, Any]
"""Family and address as ``socket.bind`` takes it."""

NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""As a browser names them."""


def resolve(host: str, port: int) -> Resolved:
    """Return the one address that a host and port stand for; of several an IPv4 one.

    Raises:
        SettingsError: there is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise SettingsError(
            "Address is not known", where="serving.host", remedy="Name one of this machine, such as 127.0.0.1."
        ) from None
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def is_loopback(address: str) -> bool:
    """Return whether an IP address, also IPv4 within IPv6, can be reached from this machine only."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def require_loopback(host: str, port: int) -> Resolved:
    """Return the address of a host if other machines cannot reach it.

    Raises:
        SettingsError: there is no such address.
        PrivacyError: they can, and would sign in as anybody: the development issuer asks for no password.
    """
    family, address = resolve(host, port)
    if not is_loopback(address[0]):
        raise PrivacyError(
            "Address is open to other machines, and the development issuer signs anybody in without a password",
            where=f"serving.host: {host}",
            remedy="Serve on 127.0.0.1.",
        )
    return family, address


def names_of(host: str) -> frozenset[str]:
    """Return how a browser on this machine may name a server on a loopback address."""
    return NAMES | {f"[{host}]".lower() if ":" in host else host.lower()}


def needs_secure_cookie(scheme: str, host: str, address: str) -> bool:
    """Return whether a session's cookie may travel over TLS only: always, but within this machine.

    Args:
        scheme: of the request's URL.
        host: name in the request's URL.
        address: name or address that the server was told to listen on.
    """
    return scheme == "https" or (f"[{host}]" if ":" in host else host) not in names_of(address) or not _is_own(address)


def _is_own(host: str) -> bool:
    try:
        return is_loopback(resolve(host, 0)[1][0])
    except SettingsError:
        return False
