"""``vitalake demo``: runs the whole system on one machine, with records of real patients and some faulty devices."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.durations import parse_seconds
from vitalake.cli.output import HomeOption, JsonOption, Output, note
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from models.commands.demo_ward import Board, BoardWatch
    from pipelines.live.supervisor import Supervisor
    from pipelines.simulator.replay import SimulationSummary

DRAIN_SECONDS = 20.0
"""How long the stream may take to catch up after the devices have stopped."""

CATCH_UP_SECONDS = 120.0
"""How long the training may take to end then, on a slow machine."""

TASKS = {"history": ["history", "load", "mimic-demo", "--held-out"], "training": ["train", "mortality"]}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    home: HomeOption = None,
    duration: Annotated[
        str | None, typer.Option(help="End when the devices have sent for this long: 60s. Default: at Ctrl-C.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of the stream.")] = 1,
    faults: Annotated[float, typer.Option(min=0, max=1, help="Share of devices that are faulty on purpose.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
    json: JsonOption = False,
) -> None:
    """Run the whole system on one machine, from warehouse and devices to the ward board, then print the ledger."""
    from governance.home import init_home
    from governance.opened import OpenedHome
    from governance.samples import copy_samples
    from pipelines.commands.ledger import print_ledger
    from pipelines.simulator.broker import EmbeddedBroker

    folder = resolve_home(home)
    if init_home(folder, copy_samples):
        note(f"Made a home in {folder}: configuration, keys and sample rules.")
    seconds = parse_seconds(duration) if duration else None
    with EmbeddedBroker() as broker:
        # Through the environment, so that the other processes use it too: they read the same configuration.
        os.environ["VITALAKE_KAFKA__BOOTSTRAP_SERVERS"] = broker.bootstrap_servers
        os.environ.setdefault("VITALAKE_OBSERVABILITY__PORT", "0")
        run = Demo(folder, seconds=seconds, workers=workers, faults=faults, seed=seed)
        code = run.run(view=sys.stderr.isatty() and not json)
    summary = OpenedHome(run.settings).ledger(run.job) | run.summary()
    Output(json).answer(summary, lambda: print_ledger(summary), lambda: print_results(summary))
    complete = summary["balanced"] and (run.settled or seconds is None)
    if code == 0 and not complete:
        note("Not every message that was sent is in the ledger above.")
        code = 13
    raise typer.Exit(code)


def print_results(summary: dict[str, Any]) -> None:
    """Print the results of history, training and scoring, and how long values took to the board."""
    latency = summary["board_latency_ms"]
    typer.echo(
        f"History: {summary['history_rows'] or 0:,} rows. Model: {summary['model'] or 'none yet'}"
        + (f", AUROC {summary['auroc']:.2f} in cross-validation" if summary["auroc"] is not None else "")
        + f". Scores: {summary['scores']:,}; from the device to the board "
        + (f"p50 {latency['p50']:,.0f} ms, p99 {latency['p99']:,.0f} ms." if latency else "time not measured.")
    )


def _auroc(report: dict[str, Any]) -> float:
    chosen = next(result for result in report["results"] if result["name"] == report["chosen"])
    return float(chosen["figures"]["auroc"]["value"])


class Demo:
    """Runs the parts of the demo in order: devices in a thread, everything else in processes of its own."""

    job = "vitals"

    def __init__(self, folder: Path, *, seconds: float | None, workers: int, faults: float, seed: int) -> None:
        from models.commands.demo_ward import BackgroundCommands, WardClock, held_out_patients
        from pipelines.simulator.replay import DEFAULT_HOURS, DEFAULT_SPEED, Simulation
        from vitalake.settings import load_settings

        self.settings = load_settings(folder)
        self._folder = folder
        self._seconds, self._workers = seconds, workers
        self._simulation = Simulation(topic="vitals", only=held_out_patients(self.settings), faults=faults, seed=seed)
        self._clock = WardClock(self.settings, hours=DEFAULT_HOURS, speed=DEFAULT_SPEED)
        self._log = self._open_log() if sys.stderr.isatty() else None
        self._background = BackgroundCommands(folder, TASKS, log=self._log)
        self._board: Board | None = None
        self._watch: BoardWatch | None = None
        self._silence, self._stop = threading.Event(), threading.Event()
        self._sent: SimulationSummary | None = None
        self._error: BaseException | None = None
        self._began: float | None = None
        self._silent_since: float | None = None
        self.settled = False
        self.watch: Callable[[Supervisor], None] = lambda _: None

    def _open_log(self) -> IO[bytes]:
        (self._folder / "logs").mkdir(exist_ok=True)
        return (self._folder / "logs" / "demo.jsonl").open("ab")

    def run(self, *, view: bool) -> int:
        """Run until the time is over or Ctrl-C; return the exit code of the stream.

        Raises:
            VitaLakeError: history, training, board or devices have failed.
        """
        from models.commands.demo_ward import Board, BoardWatch
        from pipelines.commands.stream import run_stream
        from pipelines.simulator.broker import ensure_topic

        ensure_topic(self.settings.kafka.bootstrap_servers, self._simulation.topic, self._simulation.partitions)
        self._board = Board(self._folder, self.settings, log=self._log)
        self._background.start()
        devices = threading.Thread(target=self._devices, name="devices", daemon=True)
        devices.start()
        try:
            self._board.wait()
            note(f"Ward board: {self._board.address}")
            self._watch = BoardWatch(self._board.address, self.settings)
            code = run_stream(
                self.settings,
                str(self._folder / "vitalake.yaml"),
                self.job,
                workers=self._workers,
                view=view,
                stop=self._stop,
                on_tick=self._tick,
                note=self.note,
            )
        finally:
            self._silence.set()
            self._stop.set()
            self._background.stop()
            devices.join(10)
            if self._watch is not None:
                self._watch.stop()
            self._board.stop()
            if self._log is not None:
                self._log.close()
        error = self._error or self._background.error
        if error is not None:
            raise error
        return code

    def _devices(self) -> None:
        """Wait for the history, then send: values of the warehouse must come before those of the devices."""
        from pipelines.simulator.replay import simulate

        try:
            if self._background.wait_for("history", stop=self._silence):
                self._sent = simulate(
                    self._simulation,
                    bootstrap=self.settings.kafka.bootstrap_servers,
                    home=self.settings.home,
                    stop=self._silence,
                    on_start=self._begin,
                )
        except BaseException as error:  # the main thread ends the run and raises it
            self._error = error
            self._stop.set()

    def _begin(self, due_us: int) -> None:
        self._clock.begin(due_us)
        self._began = time.monotonic()

    def _tick(self, supervisor: Supervisor) -> None:
        """When the time is over, stop the devices, wait for stream and training, and then end the run."""
        self.watch(supervisor)
        now = time.monotonic()
        if self._background.error is not None:
            self._stop.set()
        if self._seconds is not None and self._began is not None and now - self._began >= self._seconds:
            self._silence.set()
        if self._sent is None:
            return
        self._silent_since = self._silent_since or now
        self.settled = supervisor.view().counts.messages >= self._sent.messages
        done = self.settled and not self._background.running
        late = now - self._silent_since > (CATCH_UP_SECONDS if self._background.running else DRAIN_SECONDS)
        if self._seconds is not None and (done or late):
            self._stop.set()

    def note(self) -> str:
        """Return the board's address and what is going on; devices that are done must not look like a stuck stream."""
        lines = [f"Ward board: {self._board.address if self._board else ''} (sign in as clinician)"]
        if self._began is None:
            lines.append("History is being loaded; then the devices begin to send.")
        elif self._sent is None:
            lines.append(
                "Devices send vital signs of patients no model was trained on (MIMIC-IV demo, a day a minute)."
            )
        else:
            lines.append(f"Devices are done: all {self._sent.messages:,} messages are sent.")
        if self._background.running == "training":
            lines.append("A model is being trained.")
        return "  ".join([*lines, "Ctrl-C ends it and prints the ledger."])

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run; None for what was not measured or did not happen."""
        from models.commands.demo_ward import count_scores

        history = self._background.results.get("history")
        training = self._background.results.get("training")
        sent: dict[str, Any] = {"sent": None}
        if self._sent is not None:
            sent = {"sent": self._sent.messages, "faults": dict(self._sent.faults)}
        return {
            "demo": sent | {"settled": self.settled},
            "history_rows": history["rows"] if history else None,
            "model": f"{training['model']}/{training['version']}" if training else None,
            "auroc": _auroc(training) if training else None,
            "scores": count_scores(self.settings),
            "board": self._board.address if self._board else None,
            "board_latency_ms": self._watch.latency_ms() if self._watch else None,
        }
