"""``vitalake simulate``: simulates bedside devices that send to Kafka, some of them faulty."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from pipelines.simulator.replay import SimulationSummary


class SourceName(StrEnum):
    """Where the values come from."""

    mimic_demo = "mimic-demo"
    synthetic = "synthetic"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


def simulate(
    home: HomeOption = None,
    source: Annotated[
        SourceName, typer.Option(help="mimic-demo: real ICU patients, with an end; synthetic: invented, without end.")
    ] = SourceName.mimic_demo,
    patients: Annotated[int | None, typer.Option(min=1, help="Number of patients; default 100.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Messages a second; 0: as fast as possible. Synthetic: default 1000.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="mimic-demo: times real time; default 1440: a day in a minute."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="mimic-demo: only the last so many hours; default 72, with --rate 600.")
    ] = None,
    faults: Annotated[float, typer.Option(min=0, max=1, help="Share of devices that are faulty on purpose.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of invented values and of faults.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many messages.")] = None,
    topic: Annotated[str, typer.Option(help="The topic; made with --partitions if it does not exist.")] = "vitals",
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Partitions of a new topic.")] = 4,
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Kafka's addresses; default: those of the configuration.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Send vital signs of simulated bedside devices to Kafka as FHIR Observations, until done or Ctrl-C."""
    from pipelines.simulator import replay
    from vitalake.settings import load_settings, resolve_references

    settings = load_settings(resolve_home(home))
    simulation = replay.Simulation(
        source=source.value,
        topic=topic,
        patients=patients,
        rate=rate,
        speed=speed,
        hours=hours,
        faults=faults,
        seed=seed,
        count=count,
        partitions=partitions,
    )
    with _stopped_by_signal() as stop, _progress(count) as show:
        summary = replay.simulate(
            simulation,
            bootstrap=bootstrap_servers or settings.kafka.bootstrap_servers,
            home=settings.home,
            options=resolve_references(settings.kafka.options, home=settings.home),
            stop=stop,
            on_progress=show,
        )
    Output(json).answer(
        {"topic": topic, **asdict(summary), "rate": round(summary.rate, 1)},
        f"{summary.messages:,} messages of {summary.devices:,} devices to {topic} "
        f"in {summary.seconds:.1f} s ({summary.rate:,.0f}/s)",
        *(f"  {fault:<16}{sent:>8,}" for fault, sent in summary.faults.items()),
    )


@contextmanager
def _stopped_by_signal() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C or SIGTERM sets: the sender then flushes, and the summary is printed.

    A second signal ends the process at once, because the flush takes long if the broker is gone.
    """
    stop = threading.Event()
    before: dict[int, Any] = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(count: int | None) -> Iterator[Callable[[SimulationSummary], None] | None]:
    """Give a function that shows the progress on standard error; None if that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("connecting", total=count)

        def show(summary: SimulationSummary) -> None:
            faulty = sum(summary.faults.values())
            text = f"{summary.messages:,} messages, {summary.rate:,.0f}/s, {faulty:,} faulty, {summary.devices} devices"
            progress.update(task, description=text)

        yield show
