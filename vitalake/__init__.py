"""A streaming healthcare data lake; a Python program begins with ``vitalake.open``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from governance.opened import OpenedHome

__version__ = "0.1.0"

_FACE = "vitalake.face"
"""Entry point group with one name, ``open``. This package may not import ``governance``, so it finds it by name."""


def open(home: str | os.PathLike[str] | None = None) -> OpenedHome:  # noqa: A001 - as one says vitalake.open
    """Open a home, for a program to read its published rows and its ledger, and to query with SQL.

    Args:
        home: the folder of the home; None: ``VITALAKE_HOME``, else ``vitalake-home`` in the current folder.

    Raises:
        SettingsError: there is no home, or its configuration is not valid.
    """
    from vitalake.errors import SettingsError
    from vitalake.plugins import entry_points

    found = [entry for entry in entry_points(group=_FACE) if entry.name == "open"]
    if len(found) != 1:
        raise SettingsError(
            f"vitalake.open is registered {len(found)} times",
            where=f"entry points {_FACE}",
            remedy="Install vitalake again ('make setup').",
        )
    opened: OpenedHome = found[0].load()(home)
    return opened
