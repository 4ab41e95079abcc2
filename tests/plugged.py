"""Packages as they are installed, for tests of what they register: in a folder of their own on Python's path."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitalake import plugins


@contextmanager
def packages(folder: Path) -> Iterator[Path]:
    """Put a folder of packages on Python's path until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        try:
            yield folder
        finally:
            plugins._installed.cache_clear()


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
    plugins._installed.cache_clear()
    return module
