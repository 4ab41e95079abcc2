"""Packages as they are installed, for tests of what they register: in a folder of their own on Python's path."""

from __future__ import annotations

import uuid
from pathlib import Path


def plug(folder: Path, group: str, text: str, *names: str, package: str = "hospital") -> str:
    """Install a package with one module, whose object ``IT`` it registers; return the module's name, which is new.

    Args:
        folder: on Python's path.
        group: of entry points.
        text: of the module.
        names: of the entry points.
        package: the package's name.
    """
    module = f"{package}_{uuid.uuid4().hex[:8]}"
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *(f"{name} = {module}:IT" for name in names), ""]))
    return module
