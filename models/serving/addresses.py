"""Checks for addresses of this machine: only there people may sign in without a password, over plain HTTP."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from vitalake.errors import PrivacyError, SettingsError

Resolved = tuple[socket.AddressFamily, Any]
"""Family and address as ``socket.bind`` takes it."""

NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Loopback names as a browser writes them."""


def resolve(host: str, port: int) -> Resolved:
    """Return the address of a host and port; if there are several, an IPv4 one.

    Raises:
        SettingsError: the host has no address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise SettingsError(
            "Host has no address", where="serving.host", remedy="Use an address of this machine, such as 127.0.0.1."
        ) from None
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def is_loopback(address: str) -> bool:
    """Return whether an IP address, also IPv4 within IPv6, can be reached from this machine only."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def require_loopback(host: str, port: int) -> Resolved:
    """Return the address of a host that other machines cannot reach.

    Raises:
        SettingsError: the host has no address.
        PrivacyError: they can reach it, and could sign in as any user: the development issuer needs no password.
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
    """Return the host names under which a browser on this machine may address a loopback server."""
    return NAMES | {f"[{host}]".lower() if ":" in host else host.lower()}


def needs_secure_cookie(scheme: str, host: str, address: str) -> bool:
    """Return whether a session's cookie must be sent over TLS only: always, except within this machine.

    Args:
        scheme: of the request's URL.
        host: the name in the request's URL.
        address: the name or address that the server listens on.
    """
    return scheme == "https" or (f"[{host}]" if ":" in host else host) not in names_of(address) or not _is_own(address)


def _is_own(host: str) -> bool:
    try:
        return is_loopback(resolve(host, 0)[1][0])
    except SettingsError:
        return False
