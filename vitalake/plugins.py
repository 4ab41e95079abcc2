"""What packages register for the project: entry points by group, loaded so that a broken one is named.

A plug-in is code that an administrator has installed into the environment of this process. Nothing that a home says is
ever imported: a home can only use a name that an installed package has registered.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from vitalake.errors import SettingsError

GROUPS = (
    "vitalake.checks",
    "vitalake.commands",
    "vitalake.formats",
    "vitalake.masks",
    "vitalake.notifications",
    "vitalake.stores",
)
"""The groups that a package may register something in; each is described where it is read."""


def registered(group: str) -> dict[str, EntryPoint]:
    """Return what is registered in a group, by name, in the order of the names; nothing is imported.

    Raises:
        SettingsError: two packages register one name: which of them is meant nobody can say.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        if entry.name in found:
            raise SettingsError(
                "Two plug-ins are registered by one name",
                where=f"{told(found[entry.name])} and {told(entry)}",
                remedy="Uninstall the package that is not to be there.",
            )
        found[entry.name] = entry
    return found


def load(entry: EntryPoint) -> Any:
    """Return what an entry point names.

    Raises:
        SettingsError: it cannot be imported; names the entry point and the kind of the error, and not its text.
    """
    try:
        return entry.load()
    except Exception as error:  # whatever the package does when it is imported
        raise unusable(entry, f"cannot be loaded ({type(error).__name__})") from None


def check_options(entry: EntryPoint, options: Any) -> None:
    """Refuse a plug-in whose options are not as strict as all that is declared.

    Raises:
        SettingsError: they are no frozen msgspec struct that forbids unknown fields.
    """
    is_struct = isinstance(options, type) and issubclass(options, msgspec.Struct)
    if not is_struct or not (options.__struct_config__.frozen and options.__struct_config__.forbid_unknown_fields):
        raise unusable(entry, "has options that are no strict msgspec struct")


def unusable(entry: EntryPoint, what: str) -> SettingsError:
    """Return the error of a plug-in that cannot be used.

    Args:
        entry: the one.
        what: what is wrong with it, as in ``cannot be loaded``.
    """
    return SettingsError(
        f"Plug-in {what}", where=told(entry), remedy="Install a version of its package that can be, or uninstall it."
    )


def told(entry: EntryPoint) -> str:
    """Return how an error names an entry point: group, name, what it points to, and the package that brings it."""
    of = f", of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"entry point {entry.group}: {entry.name} = {entry.value}{of}"
