"""Finds the kinds of warehouses that installed packages register as entry points ``vitalake.warehouses``.

A kind is imported when an address names it, so a load imports only the one that it reads.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint

from pipelines.history.warehouses.base import WarehouseKind
from vitalake import plugins
from vitalake.errors import SettingsError

GROUP = "vitalake.warehouses"

OURS = ("duckdb", "postgresql")
"""Kinds that every installation has."""

SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
"""Form of a URI's scheme (RFC 3986), in lower case."""

REFERENCES = frozenset({"env", "file"})
"""What stands before the colon of a reference to an address."""


def registered() -> dict[str, EntryPoint]:
    """Return the entry point of every registered kind by scheme, without importing it; built-in kinds come first.

    Raises:
        SettingsError: two kinds have one scheme, or no address can begin with a kind's scheme.
    """
    entries = plugins.registered(GROUP)
    for scheme, entry in entries.items():
        if scheme in REFERENCES or not SCHEME.fullmatch(scheme):
            raise plugins.unusable(entry, "has a scheme that no address of a warehouse can begin with")
    first = [scheme for scheme in OURS if scheme in entries]
    return {scheme: entries[scheme] for scheme in dict.fromkeys([*first, *entries])}


def warehouse_kind(address: str) -> WarehouseKind:
    """Return the kind of warehouse that an address names.

    Args:
        address: with its references resolved; it may contain a password.

    Raises:
        SettingsError: no kind of this scheme is registered (the error lists the addresses of those that are, and does
            not show this one), it cannot be loaded, it is not a WarehouseKind, or its scheme differs from its entry
            point's name.
    """
    entries, scheme = registered(), address.partition(":")[0]
    if scheme not in entries:
        *others, last = (form for entry in entries.values() for form in _loaded(entry).addresses)
        raise SettingsError(
            "Kind of the warehouse's address is unknown",
            where="warehouse",
            remedy=f"Use {', '.join(others)} or {last}",
        )
    return _loaded(entries[scheme])


def where_registered(kind: WarehouseKind) -> str:
    """Return the text that names a kind's entry point in an error."""
    return plugins.describe(registered()[kind.scheme])


def failed(kind: WarehouseKind, function: str, error: Exception) -> SettingsError:
    """Return the error of a kind whose code fails; it names the entry point and the type of the error, not its text.

    Args:
        kind: the kind.
        function: which of its functions failed.
        error: what it raised.
    """
    return plugins.unusable(registered()[kind.scheme], f"fails in `{function}` ({type(error).__name__})")


def _loaded(entry: EntryPoint) -> WarehouseKind:
    kind = plugins.load(entry)
    if not isinstance(kind, WarehouseKind):
        raise plugins.unusable(entry, "is not a WarehouseKind")
    if kind.scheme != entry.name:
        raise plugins.unusable(entry, "has another name than its entry point")
    return kind
