"""Sample rules, which ``vitalake init`` copies into a home."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def copy_samples(folder: Path) -> list[str]:
    """Copy the sample rules into a folder and return the names of those that were not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    copied = []
    for item in sorted(resources.files(__package__).iterdir(), key=lambda item: item.name):
        target = folder / item.name
        if item.name.endswith(".yaml") and not target.exists():
            target.write_text(item.read_text())
            copied.append(item.name)
    return copied
