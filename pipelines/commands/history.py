"""``vitalake history``: from a warehouse into the lake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Load historical rows from a warehouse.")
    group.callback()(lambda: None)
    group.command("load")(load)
    app.add_typer(group, name="history", no_args_is_help=True)


def load(
    source: Annotated[str, typer.Argument(help="mimic-demo, cinc-2012, or the path of a job file.")],
    home: HomeOption = None,
    warehouse: Annotated[
        str | None,
        typer.Option(help="Instead of the job's: duckdb:PATH, postgresql://…, env:NAME or file:PATH; no passwords."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the source's files; cinc-2012 needs it once.")] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Only patients no model is trained on go to the care store, and its board."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Judge what the lake does not have yet and load it, masked by the same rules; print the ledger of the source."""
    from governance.opened import OpenedHome
    from pipelines.commands.ledger import print_ledger
    from pipelines.history.job import load_job
    from pipelines.history.load import load_history
    from vitalake.clinical.held_out import held_out as is_held_out
    from vitalake.lake.commits.ledger import summarise
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    out = Output(json)
    count = load_history(
        settings,
        source,
        warehouse=warehouse,
        data=data,
        care_admits=is_held_out if held_out else None,
        progress=lambda n: out.tell(f"{n:,} messages read"),
    )
    summary = summarise(OpenedHome(settings).lake().spans, job=load_job(source).name).to_json() | {"read": count}
    out.answer(summary, lambda: print_ledger(summary))
