"""``vitalake history``: loads rows from a warehouse into the lake."""

from __future__ import annotations

import logging
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
        typer.Option(
            help="Address to use instead of the job's: duckdb:PATH, postgresql://…, env:NAME or file:PATH; without a "
            "password."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the source's files; cinc-2012 needs it at the first load.")
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Write only patients that no model is trained on to the online store."),
    ] = False,
    accept_moved: Annotated[
        bool,
        typer.Option(
            "--accept-moved",
            help="Load even if most records that this source has loaded go to other patients, as after many merges. "
            "Make sure that it is the same warehouse.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Load the rows that the lake does not have yet, checked and masked by the same rules, and print the ledger."""
    from governance.opened import OpenedHome
    from pipelines.commands.ledger import print_ledger
    from pipelines.history.job import load_job
    from pipelines.history.load import load_history
    from vitalake import logs
    from vitalake.lake.commits.ledger import summarise
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    logs.configure(logging.WARNING)  # a load warns of what it cannot refuse
    out = Output(json)
    count = load_history(
        settings,
        source,
        warehouse=warehouse,
        data=data,
        held_out_only=held_out,
        accept_moved=accept_moved,
        progress=lambda n: out.tell(f"{n:,} messages read"),
    )
    summary = summarise(OpenedHome(settings).lake().spans, job=load_job(source).name).to_json() | {"read": count}
    out.answer(summary, lambda: print_ledger(summary))
