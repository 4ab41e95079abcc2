"""Parts of the demo beside the stream: history, training and the ward board, run by the commands that people use."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vitalake.errors import ServiceUnavailable, VitaLakeError
from vitalake.processes import python_module, start

if TYPE_CHECKING:
    import http.client

    from vitalake.settings import Settings

STOP_SECONDS = 10.0


class BackgroundCommands:
    """Runs commands one after the other, each in a process of its own, and keeps the JSON that each prints.

    Attributes:
        results: name of the command → its JSON, for commands that have ended.
        error: why the remaining commands were not run; None: nothing has failed.
    """

    def __init__(self, home: Path, commands: dict[str, list[str]], *, log: IO[bytes] | None) -> None:
        """Prepare the commands; ``start`` runs them.

        Args:
            home: folder of the home.
            commands: name → arguments of ``vitalake``, in order.
            log: file for standard error of the commands; None: ours.
        """
        self._home, self._commands, self._log = home, commands, log
        self.results: dict[str, dict[str, Any]] = {}
        self.error: VitaLakeError | None = None
        self._events = {name: threading.Event() for name in commands}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)

    def start(self) -> None:
        """Start the first command."""
        self._thread.start()

    def wait_for(self, name: str, *, stop: threading.Event) -> bool:
        """Wait until a command has succeeded; return False if it will not, because of a failure or ``stop``."""
        while not self._events[name].wait(0.1):
            if stop.is_set() or self.error is not None:
                return False
        return True

    @property
    def running(self) -> str:
        """Return the name of the command that runs; empty: none."""
        return next((name for name, event in self._events.items() if not event.is_set()), "") if not self.error else ""

    def stop(self) -> None:
        """End the running command, and start no other; a later run goes on with what it had decided."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        import msgspec

        for name, arguments in self._commands.items():
            if self._stopped:
                return
            command = python_module("vitalake", *arguments, "--home", str(self._home), "--json")
            self._process = start(command, stdout=subprocess.PIPE, stderr=self._log)
            output, _ = self._process.communicate()
            if self._process.returncode != 0:
                if not self._stopped:
                    self.error = ServiceUnavailable(
                        f"'vitalake {arguments[0]}' ended with {self._process.returncode}",
                        where="demo",
                        remedy=f"Run 'vitalake {' '.join(arguments)}' by hand to see why.",
                    )
                return
            self.results[name] = msgspec.json.decode(output.splitlines()[-1])
            self._events[name].set()


class Board:
    """The process that serves the ward board."""

    def __init__(self, home: Path, settings: Settings, *, log: IO[bytes] | None) -> None:
        """Start the process; ``wait`` waits until ``address`` answers.

        Raises:
            ServiceUnavailable: no port is free.
        """
        port = _free_port(settings.serving.host, settings.serving.port)
        command = python_module("vitalake", "serve", "--home", str(home), "--port", str(port))
        self.address = f"http://{settings.serving.host}:{port}"
        self._process = start(command, stdout=log or subprocess.DEVNULL, stderr=log)

    def wait(self, *, seconds: float = 60.0) -> None:
        """Wait until the board answers.

        Raises:
            ServiceUnavailable: it does not answer in time, or the process has ended.
        """
        import http.client

        end = time.monotonic() + seconds
        host, _, port = self.address.removeprefix("http://").partition(":")
        while time.monotonic() < end and self._process.poll() is None:
            try:
                connection = http.client.HTTPConnection(host, int(port), timeout=2)
                connection.request("GET", "/healthz")
                if connection.getresponse().status == http.client.OK:
                    return
            except OSError:
                time.sleep(0.1)
        raise ServiceUnavailable(
            "Ward board does not start", where=self.address, remedy="Run 'vitalake serve' by hand to see why."
        )

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port(host: str, wanted: int) -> int:
    """Return the wanted port, or a free one if another program uses it."""
    import socket

    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceUnavailable("No port is free", where=host, remedy="End the programs that use the ports.")


def held_out_patients(settings: Settings) -> frozenset[str]:
    """Return the ids of the demo's patients that no model is trained on.

    Raises:
        SettingsError: the demo's data are not installed.
        PrivacyError: the keys cannot be read.
    """
    from governance.policy.masks import Pseudonyms
    from pipelines.simulator import demo_data
    from vitalake.clinical.held_out import held_out
    from vitalake.home import Home

    token = Pseudonyms(Home(settings).keys, "patient-identifier").token
    ids = set(demo_data.read("hospitalization", ["patient_id"])["patient_id"].to_pylist())
    return frozenset(patient for patient in ids if held_out(token(patient)))


class WardClock:
    """Sets the ward's time to that of the replay: it stands still until the devices begin, and ends with their data."""

    def __init__(self, settings: Settings, *, hours: float, speed: float) -> None:
        from pipelines.online_store.opening import open_online_store
        from pipelines.online_store.playback import Replay
        from pipelines.simulator.anchors import load_or_create
        from vitalake.home import Home

        self.store = open_online_store(settings, Home(settings).keys)
        self._replay, self._speed = Replay, speed
        self._end_us = int(load_or_create(settings.home).reference.timestamp() * 1_000_000)
        self._set(self._end_us - int(hours * 3_600_000_000), speed=0.0)

    def begin(self, due_us: int) -> None:
        """Start the clock at the effective time of the first message."""
        self._set(due_us, speed=self._speed)

    def _set(self, start_us: int, *, speed: float) -> None:
        from vitalake import clock

        self.store.time.set_replay(
            self._replay(start_us=start_us, wall_us=clock.now_us(), speed=speed, end_us=self._end_us)
        )


class BoardWatch:
    """Follows the board as a clinician's browser does, and measures how long after a measurement it is shown."""

    def __init__(self, address: str, settings: Settings) -> None:
        """Open the board in a thread."""
        from governance.access import open_issuer
        from vitalake.home import Home

        self._address = address.removeprefix("http://")
        self._token = open_issuer(settings, Home(settings).keys).sign_in("clinician")
        self._settings = settings
        self._newest: dict[str, int] = {}
        self._waits: list[float] = []
        self._stopped = False
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._follow, name="board", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        import http.client

        while not self._stopped:
            try:
                self._connection = http.client.HTTPConnection(self._address, timeout=30)
                self._connection.request("GET", "/board/events", headers={"Authorization": f"Bearer {self._token}"})
                for line in self._connection.getresponse():
                    if line.startswith(b"data: "):
                        self._take(line[6:])
            except (OSError, http.client.HTTPException, AttributeError):  # also when stop() closes the connection
                time.sleep(0.2)

    def _take(self, data: bytes) -> None:
        import msgspec

        event = msgspec.json.decode(data)
        for row in event.get("rows", ()):
            before, newest = self._newest.get(row["patient"]), row["newest_us"]
            if newest is None or newest == before:
                continue
            self._newest[row["patient"]] = newest
            if before is not None and event["speed"] > 0:  # the first row of a patient shows values from before
                self._waits.append((event["ward_us"] - newest) / event["speed"] / 1000)

    def latency_ms(self) -> dict[str, float] | None:
        """Return quantiles of the real time from a measurement to its display; None: nothing was measured.

        The ward's time runs at the speed of the replay, so ward seconds are divided by that speed.
        """
        waits = sorted(self._waits)
        if not waits:
            return None
        return {name: round(waits[int(len(waits) * q)], 1) for name, q in (("p50", 0.5), ("p99", 0.99))}

    def stop(self) -> None:
        """Stop following, and close the connection."""
        self._stopped = True
        if self._connection is not None:
            self._connection.close()


def count_scores(settings: Settings) -> int:
    """Return how many scores were computed and kept.

    Raises:
        VitaLakeError: the book of scores cannot be opened.
    """
    from models.serving.scores import FILE, ScoreBook
    from pipelines.online_store.opening import store_sealer
    from vitalake.home import Home

    path = settings.path(FILE)
    if not path.exists():
        return 0
    keys = Home(settings).keys
    book = ScoreBook(path, store_sealer(settings, keys, "scores", purpose="demo"))
    try:
        return book.count()
    finally:
        book.close()
