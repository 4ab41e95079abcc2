"""A home: the folder with configuration, keys, rules and, by default, the lake."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from governance.keyservice.local import create_local_service
from vitalake.errors import SettingsError
from vitalake.keys import add_missing_keys, create_key_file
from vitalake.modes import keep_private
from vitalake.settings import CONFIG_NAME, Settings

_EXPLAINED = """\
# Configuration of a vitalake home. What is commented out is the default; docs/reference/configuration.md has all of it.
# Secrets never stand here: write env:NAME or file:PATH in their place.
# Variables may set addresses, ports and sizes, and come before this file: VITALAKE_KAFKA__BOOTSTRAP_SERVERS=host:port
"""


def default_configuration() -> str:
    """Return a configuration file that says what the defaults are, each commented out."""
    defaults = Settings().model_dump(mode="json", exclude={"home"})
    lines = _EXPLAINED.splitlines()
    for section, value in defaults.items():
        lines += ["", *_section(section, value)]
    return "\n".join(lines) + "\n"


def _section(name: str, value: object, *, depth: int = 0) -> list[str]:
    """Return YAML lines: mappings are open, so that one line can be uncommented at a time."""
    indent = "  " * depth
    if isinstance(value, dict) and value and name not in ("topics", "options", "storage_options"):
        lines = [f"{indent}{name}:"]
        for key, inner in value.items():
            lines += _section(key, inner, depth=depth + 1)
        # A mapping of comments only would be null.
        return lines if any(not line.lstrip().startswith("#") for line in lines[1:]) else [f"# {lines[0]}", *lines[1:]]
    return [f"# {indent}{name}: {_inline(value)}"]


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_inline(v)}" for k, v in value.items()) + "}"
    return "[]" if value == [] else "null" if value is None else str(value)


def init_home(folder: Path, copy_rules: Callable[[Path], list[str]]) -> list[str]:
    """Make what a home lacks and return what was made; what is there stays untouched.

    A new home is built beside its place and moved there whole, so that a kill leaves nothing half-written; only its
    account can read it.

    Raises:
        SettingsError: the folder cannot be written.
    """
    keep_private()
    try:
        if folder.exists():
            if not any(folder.iterdir()):
                folder.chmod(0o700)
            return _fill(folder, copy_rules)
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            made = _fill(building, copy_rules)
            os.rename(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise SettingsError(
            f"Home cannot be made ({error.strerror})", where=str(folder), remedy="Choose a folder you may write to."
        ) from None
    return made


def _fill(folder: Path, copy_rules: Callable[[Path], list[str]]) -> list[str]:
    made = []
    if not (folder / CONFIG_NAME).exists():
        (folder / CONFIG_NAME).write_text(default_configuration())
        made.append(CONFIG_NAME)
    if not (folder / "keys.yaml").exists():
        create_key_file(folder / "keys.yaml")
        made.append("keys.yaml")
    else:
        made += [f"keys.yaml: {name}" for name in add_missing_keys(folder / "keys.yaml")]
    if not (folder / "vault-keys.yaml").exists():
        create_local_service(folder / "vault-keys.yaml")
        made.append("vault-keys.yaml")
    if not (folder / "governance").exists():
        made += [f"governance/{name}" for name in copy_rules(folder / "governance")]
    return made
