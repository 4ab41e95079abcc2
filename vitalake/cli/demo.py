"""``vitalake demo``: the whole lane on one machine, with real patients' vitals from misbehaving devices."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.durations import parse_seconds
from vitalake.cli.output import HomeOption, JsonOption, note, print_json, resolve_home

if TYPE_CHECKING:
    from pipelines.live.supervisor import Supervisor
    from pipelines.simulator.replay import SimulationSummary

DRAIN_SECONDS = 20.0
"""How long after the devices fell silent the lane may take to catch up."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    home: HomeOption = None,
    duration: Annotated[str | None, typer.Option(help="End after so long: 60s. Default: until Ctrl-C.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    rate: Annotated[float | None, typer.Option(help="Messages a second; default: the ward, a day in a minute.")] = None,
    faults: Annotated[float, typer.Option(min=0, max=1, help="Share of devices that misbehave on purpose.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides the faults.")] = 0,
    json: JsonOption = False,
) -> None:
    """Run broker, devices and lane together, show them live, and print the ledger at the end."""
    from governance.samples import copy_samples
    from pipelines.broker import EmbeddedBroker
    from vitalake.cli.ledger import ledger_summary, print_ledger
    from vitalake.home import init_home

    folder = resolve_home(home)
    if init_home(folder, copy_samples):
        note(f"Made a home in {folder}: configuration, keys and sample rules.")
    seconds = parse_seconds(duration) if duration else None
    with EmbeddedBroker() as broker:
        # For the workers too: they read the same configuration.
        os.environ["VITALAKE_KAFKA__BOOTSTRAP_SERVERS"] = broker.bootstrap_servers
        os.environ.setdefault("VITALAKE_OBSERVABILITY__PORT", "0")
        run = Demo(folder, seconds=seconds, workers=workers, rate=rate, faults=faults, seed=seed)
        code = run.run(view=sys.stderr.isatty() and not json)
    summary = ledger_summary(run.settings, run.job) | {"demo": run.sent()}
    if json:
        print_json(summary)
    else:
        print_ledger(summary)
    complete = summary["balanced"] and (run.settled or seconds is None)
    if code == 0 and not complete:
        note("The lane did not account for every message that was sent: see the ledger above.")
        code = 13
    raise typer.Exit(code)


class Demo:
    """Devices in a thread, the lane in its processes, and the order in which they end."""

    job = "vitals"

    def __init__(
        self, folder: Any, *, seconds: float | None, workers: int, rate: float | None, faults: float, seed: int
    ) -> None:
        from pipelines.simulator.replay import Simulation
        from vitalake.settings import load_settings

        self.settings = load_settings(folder)
        self._config = str(folder / "vitalake.yaml")
        self._seconds, self._workers, self._rate = seconds, workers, rate
        self._simulation = Simulation(topic="vitals", rate=rate, faults=faults, seed=seed)
        self._silence, self._stop = threading.Event(), threading.Event()
        self._summary: SimulationSummary | None = None
        self._error: BaseException | None = None
        self._silent_since: float | None = None
        self._started = time.monotonic()
        self.settled = False
        self.watch: Callable[[Supervisor], None] = lambda _: None

    def run(self, *, view: bool) -> int:
        """Run until the time is over or Ctrl-C; return the lane's exit code."""
        from pipelines.broker import ensure_topic
        from vitalake.cli.stream import run_stream

        ensure_topic(self.settings.kafka.bootstrap_servers, self._simulation.topic, self._simulation.partitions)
        devices = threading.Thread(target=self._devices, name="devices", daemon=True)
        devices.start()
        try:
            code = run_stream(
                self.settings,
                self._config,
                self.job,
                workers=self._workers,
                view=view,
                stop=self._stop,
                on_tick=self._tick,
                note=self.note,
            )
        finally:
            self._silence.set()
            devices.join(10)
        if self._error is not None:
            raise self._error
        return code

    def _devices(self) -> None:
        from pipelines.simulator.replay import simulate

        try:
            self._summary = simulate(
                self._simulation,
                bootstrap=self.settings.kafka.bootstrap_servers,
                home=self.settings.home,
                stop=self._silence,
            )
        except BaseException as error:  # told to the main thread, which ends the run
            self._error = error
            self._stop.set()

    def _tick(self, supervisor: Supervisor) -> None:
        """When the time is over: silence the devices, let the lane catch up, then end it."""
        self.watch(supervisor)
        now = time.monotonic()
        if self._seconds is not None and now - self._started >= self._seconds:
            self._silence.set()
        if self._summary is None:
            return
        self._silent_since = self._silent_since or now
        self.settled = supervisor.view().counts.messages >= self._summary.messages
        if self._seconds is not None and (self.settled or now - self._silent_since > DRAIN_SECONDS):
            self._stop.set()

    def note(self) -> str:
        """Say what the devices do: nothing coming any more must not look like a lane that is stuck."""
        if self._summary is None:
            pace = "a day in a minute" if self._rate is None else f"{self._rate:,.0f} messages a second"
            return f"Devices: vitals of the MIMIC-IV demo's patients, {pace}. Ctrl-C ends it and prints the ledger."
        return f"Devices: silent, all {self._summary.messages:,} messages are sent. Ctrl-C ends it."

    def sent(self) -> dict[str, Any]:
        """Return what the devices sent, by fault, and whether all of it is in the ledger."""
        summary = self._summary
        if summary is None:
            return {"sent": None, "settled": self.settled}
        return {"sent": summary.messages, "faults": dict(summary.faults), "settled": self.settled}
