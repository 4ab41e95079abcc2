"""What of the demo stands beside the live lane: history, training, the ward board; the commands that people type."""

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


class Errands:
    """Commands that run one after the other in processes of their own, and what each printed as JSON.

    Attributes:
        results: by command's name, as far as they have ended.
        error: why the rest was not run.
    """

    def __init__(self, home: Path, errands: dict[str, list[str]], *, log: IO[bytes] | None) -> None:
        """Prepare.

        Args:
            home: the home.
            errands: name → arguments of ``vitalake``, in order.
            log: where they write their notes; None: standard error.
        """
        self._home, self._errands, self._log = home, errands, log
        self.results: dict[str, dict[str, Any]] = {}
        self.error: VitaLakeError | None = None
        self._events = {name: threading.Event() for name in errands}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="errands", daemon=True)

    def start(self) -> None:
        """Start the first."""
        self._thread.start()

    def wait_for(self, name: str, *, stop: threading.Event) -> bool:
        """Wait until a command has ended well; return False when it never will."""
        while not self._events[name].wait(0.1):
            if stop.is_set() or self.error is not None:
                return False
        return True

    @property
    def running(self) -> str:
        """Return the name of the command that runs; empty: none."""
        return next((name for name, event in self._events.items() if not event.is_set()), "") if not self.error else ""

    def stop(self) -> None:
        """End the one that runs; what it had decided stays, and goes on next time."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        import msgspec

        for name, arguments in self._errands.items():
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
    """The ward board's process."""

    def __init__(self, home: Path, settings: Settings, *, log: IO[bytes] | None) -> None:
        """Start it; ``address`` is there once it listens.

        Raises:
            ServiceUnavailable: it does not come up.
        """
        port = _free_port(settings.serving.host, settings.serving.port)
        command = python_module("vitalake", "serve", "--home", str(home), "--port", str(port))
        self.address = f"http://{settings.serving.host}:{port}"
        self._process = start(command, stdout=log or subprocess.DEVNULL, stderr=log)

    def wait(self, *, seconds: float = 60.0) -> None:
        """Wait until it answers.

        Raises:
            ServiceUnavailable: it does not come up.
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
            "Ward board does not come up", where=self.address, remedy="Run 'vitalake serve' by hand to see why."
        )

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port(host: str, wanted: int) -> int:
    """Return the wanted port, or a free one where somebody has it."""
    import socket

    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceUnavailable("No port is free", where=host, remedy="Close who uses them.")


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
    """Sets the ward's time to the replay's: it stands until the devices begin, and ends at the anchors' reference."""

    def __init__(self, settings: Settings, *, hours: float, speed: float) -> None:
        from pipelines.intake.online_feed import open_online_store
        from pipelines.online_store.playback import Replay
        from pipelines.simulator.anchors import load_or_create
        from vitalake.home import Home

        self.store = open_online_store(settings, Home(settings).keys)
        self._replay, self._speed = Replay, speed
        self._end_us = int(load_or_create(settings.home).reference.timestamp() * 1_000_000)
        self._set(self._end_us - int(hours * 3_600_000_000), speed=0.0)

    def begin(self, due_us: int) -> None:
        """Let it run, from the time at which the first message is true."""
        self._set(due_us, speed=self._speed)

    def _set(self, start_us: int, *, speed: float) -> None:
        from vitalake import clock

        self.store.set_replay(self._replay(start_us=start_us, wall_us=clock.now_us(), speed=speed, end_us=self._end_us))


class BoardWatch:
    """A clinician's open board: takes in what it is told, and how long each came after its device's measurement."""

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
            except (OSError, http.client.HTTPException, AttributeError):  # it is closed under us when we stop
                time.sleep(0.2)

    def _take(self, data: bytes) -> None:
        import msgspec

        event = msgspec.json.decode(data)
        for row in event.get("rows", ()):
            before, newest = self._newest.get(row["patient"]), row["newest_us"]
            if newest is None or newest == before:
                continue
            self._newest[row["patient"]] = newest
            if before is not None and event["speed"] > 0:  # the first sight of a patient is of what was there
                self._waits.append((event["ward_us"] - newest) / event["speed"] / 1000)

    def latency_ms(self) -> dict[str, float] | None:
        """Return quantiles of the time from a measurement to its being pushed; None: nothing was seen.

        While a replay runs the ward's time does, too: a minute of it is a minute divided by the replay's speed.
        """
        waits = sorted(self._waits)
        if not waits:
            return None
        return {name: round(waits[int(len(waits) * q)], 1) for name, q in (("p50", 0.5), ("p99", 0.99))}

    def stop(self) -> None:
        """Close it."""
        self._stopped = True
        if self._connection is not None:
            self._connection.close()


def count_scores(settings: Settings) -> int:
    """Return how many scores were computed and kept.

    Raises:
        VitaLakeError: their book cannot be opened.
    """
    from models.serving.scores import FILE, ScoreBook
    from pipelines.intake.online_feed import store_sealer
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
