"""``vitalake train``: trains a model from published rows, measures how good it is, and registers it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output, note
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from models.training.report import Report

CINC = "cinc-2012"
"""The history source that reads the folder of --data."""

_COLUMNS = ("auroc", "auprc", "brier", "calibration_slope")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    task: Annotated[str, typer.Argument(help="A task of the project or of the home, such as mortality.")],
    home: HomeOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder with CinC 2012 as Parquet; it is loaded into the lake first, and only it is trained on."
        ),
    ] = None,
    promote: Annotated[
        bool, typer.Option(help="Set the alias 'champion' to the new model, so that it is served.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Train models for a task from published data, track them in MLflow, and register the better one with its card."""
    from models.training.train import train as run
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    source = None
    if data is not None:
        from pipelines.history.load import load_history

        source = CINC
        count = load_history(settings, CINC, data=data)
        note(f"{count:,} rows read from {data}")
    out = Output(json)
    report = run(settings, task, source=source, promote=promote, tell=out.tell)
    out.answer(report, lambda: _print(report))


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from models.training.card import few, shown, verdict

    t, h = report.trained, report.held_out
    typer.echo(
        f"\n{report.title}: {t.stays:,} stays, {t.events:,} with the event; held out {h.stays:,} and {h.events:,}."
    )
    grid = Table(box=None, padding=(0, 2), header_style="bold")
    for name in ("candidate", "AUROC", "AUPRC", "Brier", "calibration slope", "AUROC held out"):
        grid.add_column(name, no_wrap=True)
    for result in report.results:
        style = "bold" if result.name == report.chosen else None
        cells = [shown(result.figures[name]) for name in _COLUMNS]
        grid.add_row(result.name, *cells, shown(result.held_out.get("auroc")), style=style)
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 160).print(grid)
    typer.echo(f"\n{report.chosen}: {verdict(report).replace('**', '')}")
    if few(report):
        typer.echo(
            f"{t.events} events are too few to judge the model; they only show that training works: see its card."
        )
    served = "the champion, in shadow mode beside NEWS2" if report.champion else "not served"
    typer.echo(f"Registered as {report.model}/{report.version}, {served}. Not approved, not a medical device.")
