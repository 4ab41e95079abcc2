"""``vitalake init``: make a home."""

from __future__ import annotations

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(home: HomeOption = None, json: JsonOption = False) -> None:
    """Make a home: configuration, keys, sample rules. What is there already stays as it is."""
    from governance.home import init_home
    from governance.samples import copy_samples

    folder = resolve_home(home)
    made = init_home(folder, copy_samples)
    lines = [f"made  {folder / name}" for name in made] or [f"{folder} is a home already; nothing was changed."]
    out = Output(json)
    out.answer({"home": str(folder), "made": made}, *lines)
    out.tell("Keep keys.yaml and vault-keys.yaml safe: what is sealed opens with them only, and with the vault.")
    out.tell("Next: 'vitalake doctor', then 'vitalake stream', or 'vitalake demo' to see all of it at work.")
