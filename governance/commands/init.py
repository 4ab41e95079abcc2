"""``vitalake init``: make a home."""

from __future__ import annotations

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(home: HomeOption = None, json: JsonOption = False) -> None:
    """Make a home: configuration, keys and sample rules. Existing files stay as they are."""
    from governance.home import init_home
    from governance.samples import copy_samples

    folder = resolve_home(home)
    made = init_home(folder, copy_samples)
    lines = [f"made  {folder / name}" for name in made] or [f"{folder} is already a home; nothing was changed."]
    out = Output(json)
    out.answer({"home": str(folder), "made": made}, *lines)
    out.tell("Keep keys.yaml, vault-keys.yaml and the vault safe: without them sealed values can never be read again.")
    out.tell("Next: 'vitalake doctor', then 'vitalake stream'; or 'vitalake demo' to see everything at work.")
