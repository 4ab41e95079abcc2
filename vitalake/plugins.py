"""Finds and loads plug-ins: entry points that packages register, by group. An error names the broken one.

A plug-in is code that an administrator has installed into the environment of this process. No file of a home is ever
imported: a home can only use names that installed packages have registered.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import msgspec

from vitalake.errors import SettingsError

GROUPS = (
    "vitalake.checks",
    "vitalake.commands",
    "vitalake.formats",
    "vitalake.masks",
    "vitalake.notifications",
    "vitalake.pages",
    "vitalake.stores",
    "vitalake.warehouses",
)
"""The groups that a package may register entry points in; the module that reads a group describes it."""


@cache
def _installed() -> Any:
    """Return all entry points of the environment; this reads a file of every installed package, so do it once."""
    return metadata.entry_points()  # its type has another name before Python 3.12


def entry_points(*, group: str) -> EntryPoints:
    """Return the entry points of a group, as they were when this process first asked for any."""
    found: EntryPoints = _installed().select(group=group)
    return found


def registered(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, sorted by name; nothing is imported.

    Raises:
        SettingsError: two packages register the same name, so that it is not clear which of them is meant.
    """
    entries: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        if entry.name in entries:
            raise SettingsError(
                "Two plug-ins are registered under one name",
                where=f"{describe(entries[entry.name])} and {describe(entry)}",
                remedy="Uninstall one of the two packages.",
            )
        entries[entry.name] = entry
    return entries


def load(entry: EntryPoint) -> Any:
    """Import and return the object that an entry point names.

    Raises:
        SettingsError: it cannot be imported; it names the entry point and the type of the error, but not its text.
    """
    try:
        return entry.load()
    except Exception as error:  # the package's code can raise anything
        raise unusable(entry, f"cannot be loaded ({type(error).__name__})") from None


def check_options(entry: EntryPoint, options: Any) -> None:
    """Refuse a plug-in whose options are not as strict as our own declarations.

    Raises:
        SettingsError: the options are not a frozen msgspec struct that forbids unknown fields.
    """
    is_struct = isinstance(options, type) and issubclass(options, msgspec.Struct)
    if not is_struct or not (options.__struct_config__.frozen and options.__struct_config__.forbid_unknown_fields):
        raise unusable(entry, "has options that are not a frozen msgspec struct which forbids unknown fields")


def unusable(entry: EntryPoint, what: str) -> SettingsError:
    """Return the error of a plug-in that cannot be used.

    Args:
        entry: entry point of the plug-in.
        what: what is wrong with it, as in ``cannot be loaded``.
    """
    return SettingsError(
        f"Plug-in {what}",
        where=describe(entry),
        remedy="Install a version of its package that works with this release, or uninstall it.",
    )


def describe(entry: EntryPoint) -> str:
    """Return the text that names an entry point in an error: group, name, object, and the package with its version."""
    of = f", of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"entry point {entry.group}: {entry.name} = {entry.value}{of}"
