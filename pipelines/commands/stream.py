"""``vitalake stream``: streams from Kafka into the lake until it is stopped."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.durations import parse_seconds, parse_start
from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from rich.panel import Panel

    from pipelines.live.lane import StreamOptions
    from pipelines.live.supervisor import Supervisor, View
    from vitalake.settings import Settings

TICK_SECONDS = 0.25


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stream")(stream)


def stream(
    config: Annotated[Path | None, typer.Argument(help="Configuration file; default: that of the home.")] = None,
    home: HomeOption = None,
    job: Annotated[str, typer.Option(help="Which of the configuration's jobs.")] = "vitals",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker processes, one per shard.")] = 1,
    until_idle: Annotated[str | None, typer.Option(help="End when nothing has arrived for this long: 5s.")] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from", help="Where to begin in partitions never read: earliest, latest, or a time with its zone."
        ),
    ] = "earliest",
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Record messages that Kafka has deleted as lost, and continue.")
    ] = False,
    runner: Annotated[str, typer.Option(help="embedded or flink.")] = "embedded",
    view: Annotated[bool | None, typer.Option("--view/--no-view", help="Live view; default: on a terminal.")] = None,
    json: JsonOption = False,
) -> None:
    """Stream from Kafka into the lake until Ctrl-C, then print the ledger."""
    from vitalake.settings import load_settings

    idle = parse_seconds(until_idle) if until_idle else None
    begin = parse_start(start)
    if runner not in ("embedded", "flink"):
        message = "The runner is 'embedded' or 'flink'."
        raise typer.BadParameter(message, param_hint="--runner")
    path = (config or resolve_home(home)).absolute()
    settings = load_settings(path)
    config_file = settings.home / path.name if path.suffix else path / "vitalake.yaml"
    if runner == "flink":
        from pipelines.live.preflight import preflight
        from pipelines.runners.flink import run_on_flink

        preflight(settings, job)
        options = stream_options(begin, accept_loss=accept_loss, until_idle_seconds=idle)
        raise typer.Exit(run_on_flink(str(config_file), job, shards=workers, options=options))
    code = run_stream(
        settings,
        str(config_file),
        job,
        workers=workers,
        until_idle_seconds=idle,
        start=begin,
        accept_loss=accept_loss,
        view=sys.stderr.isatty() and not json if view is None else view,
    )
    from governance.opened import OpenedHome
    from pipelines.commands.ledger import print_ledger

    summary = OpenedHome(settings).ledger(job)
    Output(json).answer(summary, lambda: print_ledger(summary))
    raise typer.Exit(code)


def stop_on_signals(stop: threading.Event) -> None:
    """Stop in an orderly way on the first Ctrl-C or SIGTERM; the second one ends the process at once.

    Called before the imports, which take a second: a KeyboardInterrupt there would end in a traceback of some module.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, on_signal)


def stream_options(start: str, *, accept_loss: bool, until_idle_seconds: float | None) -> StreamOptions:
    """Return the options of a stream; ``start`` is what parse_start returns."""
    from pipelines.live.lane import StreamOptions

    begin: Any = int(start) if start.isdigit() else start
    return StreamOptions(start=begin, accept_loss=accept_loss, until_idle_seconds=until_idle_seconds)


def run_stream(
    settings: Settings,
    config_file: str,
    job: str,
    *,
    workers: int = 1,
    until_idle_seconds: float | None = None,
    start: str = "earliest",
    accept_loss: bool = False,
    view: bool = False,
    stop: threading.Event | None = None,
    on_tick: Callable[[Supervisor], None] | None = None,
    note: Callable[[], str] = str,
) -> int:
    """Run the workers of a stream until they end or ``stop`` is set; return the exit code.

    Args:
        settings: of the home.
        config_file: where the workers read the same settings.
        job: the lane's name.
        workers: how many processes; one per shard.
        until_idle_seconds: end when nothing has arrived for so long; None: never.
        start: where partitions begin that were never read; as parse_start gives it.
        accept_loss: record messages that Kafka has deleted as lost, and continue.
        view: whether to show the live view on standard error; logs go to a file then.
        stop: ends the lane when it is set; default: only signals do.
        on_tick: called a few times a second.
        note: a line of its own for the view.

    Raises:
        VitaLakeError: the lane cannot start: its configuration, a service or the lake is not in order.
    """
    stop = stop or threading.Event()
    stop_on_signals(stop)
    from pipelines.live.metrics import Observability
    from pipelines.live.preflight import preflight
    from pipelines.live.supervisor import Supervisor
    from pipelines.live.upkeep import Upkeep
    from pipelines.reconcile.sidecar import Sidecar
    from vitalake import logs
    from vitalake.notifications import LaneObserved, Seen, notified_events

    options = stream_options(start, accept_loss=accept_loss, until_idle_seconds=until_idle_seconds)
    log_file = None
    if view:
        (settings.home / "logs").mkdir(exist_ok=True)
        log_file = (settings.home / "logs" / f"{job}.jsonl").open("ab")
    supervisor = Supervisor(config_file, job, workers=workers, options=options, stderr=log_file)
    upkeep = Upkeep(
        config_file,
        job,
        workers=workers,
        every_seconds=settings.maintenance.every_seconds,
        now=time.monotonic(),
        stderr=log_file,
    )
    attributor = Sidecar(config_file, settings, job, stderr=log_file)
    where = settings.observability
    observability = Observability(supervisor.view, job=job, host=where.host, port=where.port)
    try:
        with notified_events(settings, job) as events:
            preflight(settings, job)
            logs.configure(stream=log_file)
            if stop.is_set():
                return 0
            supervisor.start()

            def publish(lane: View, *, ended: bool = False) -> None:
                paused = ended or lane.state == "paused"
                events.publish(LaneObserved(job, Seen(paused, lane.reasons, lane.tally, time.monotonic(), ended)))

            def tick(running: Supervisor) -> None:
                if not running.stopping:  # a lane that is stopped neither waits nor goes on
                    publish(running.view())
                now = time.monotonic()
                upkeep.tick(now)
                attributor.tick(now)
                if on_tick:
                    on_tick(running)

            code = _watch(supervisor, stop, title=f"vitalake · {job}", view=view, on_tick=tick, note=note)
            # Who starts a lane that cannot begin, or stops one, reads the error there.
            if code and not stop.is_set() and any(worker.opened for worker in supervisor.workers):
                publish(supervisor.view(), ended=True)
            return code
    finally:
        upkeep.stop()
        supervisor.stop_and_wait()
        attributor.stop()
        observability.close()
        if log_file:
            log_file.close()


def _watch(
    supervisor: Supervisor,
    stop: threading.Event,
    *,
    title: str,
    view: bool,
    on_tick: Callable[[Supervisor], None] | None,
    note: Callable[[], str],
) -> int:
    if not view:
        return _loop(supervisor, stop, on_tick)
    from rich.console import Console
    from rich.live import Live

    from pipelines.commands.view import LaneView

    picture = LaneView(title)

    def draw() -> Panel:
        return picture.render(supervisor.view(), note())

    with Live(console=Console(stderr=True), refresh_per_second=4, get_renderable=draw):
        return _loop(supervisor, stop, on_tick)


def _loop(supervisor: Supervisor, stop: threading.Event, on_tick: Callable[[Supervisor], None] | None) -> int:
    while True:
        code = supervisor.tick()
        if code is not None:
            return code
        if on_tick:
            on_tick(supervisor)
        if stop.wait(TICK_SECONDS):
            return supervisor.stop_and_wait()
