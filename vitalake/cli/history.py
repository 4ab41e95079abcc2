"""``vitalake history``: from a warehouse into the lake."""

from __future__ import annotations

from typing import Annotated

import typer

from vitalake.cli.output import HomeOption, JsonOption, note, print_json, resolve_home


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Load historical rows from a warehouse.")
    group.callback()(lambda: None)
    group.command("load")(load)
    app.add_typer(group, name="history", no_args_is_help=True)


def load(
    source: Annotated[str, typer.Argument(help="mimic-demo: vital signs of the MIMIC-IV demo, in an embedded DuckDB.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Load what the lake does not have yet, masked by the same rules; print the ledger of the source."""
    from pipelines.history.load import job_name, load_history
    from vitalake.cli.ledger import open_lake, print_ledger
    from vitalake.lake.ledger import summarise
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    count = load_history(settings, source, progress=None if json else lambda n: note(f"{n:,} observations read"))
    summary = summarise(open_lake(settings).spans, job=job_name(source)).to_json() | {"read": count}
    if json:
        print_json(summary)
    else:
        print_ledger(summary)
