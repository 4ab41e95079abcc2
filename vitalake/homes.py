"""Finds the home of a command or program that names none."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = Path("vitalake-home")
VARIABLE = "VITALAKE_HOME"


def resolve_home(home: str | os.PathLike[str] | None) -> Path:
    """Return a home's folder as an absolute path; it need not exist.

    Args:
        home: the folder; None: ``VITALAKE_HOME``, else ``vitalake-home`` in the current folder.
    """
    return Path(home or os.environ.get(VARIABLE) or DEFAULT).absolute()
