"""The live lane on Flink: the same pipeline, through Beam's portable runner and a job server from its jars.

Flink's checkpoints are off, because the lake is the checkpoint. A failed job starts again without any state
(fixed-delay restarts) and continues at the positions in the spans table.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipelines.core.kafka import Shard
from pipelines.live.lane import StreamOptions
from pipelines.live.lanes import LaneSpec
from vitalake.errors import ServiceUnavailable, SettingsError
from vitalake.processes import python_module

_log = logging.getLogger(__name__)

JARS = "VITALAKE_FLINK_JARS"
"""The environment variable with the folder of the jars."""

_OPENS = (
    "java.base/java.lang",
    "java.base/java.util",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.time",
)
_CONFIG = """\
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 2147483647
restart-strategy.fixed-delay.delay: 1 s
taskmanager.numberOfTaskSlots: {slots}
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.max: 128m
rest.bind-address: 127.0.0.1
rest.address: 127.0.0.1
rest.port: 0
jobmanager.rpc.address: 127.0.0.1
"""
START_SECONDS = 60.0
"""How long the services have to listen on their ports."""

POLL_SECONDS = 0.2


def jars_folder() -> Path:
    """Return the folder of the job server's jars.

    Raises:
        SettingsError: it has no such jars, or Java is not installed.
    """
    folder = Path(os.environ.get(JARS, ".services/flink")).absolute()
    if not shutil.which("java"):
        raise SettingsError(
            "Java is not installed", where="--runner flink", remedy="apt-get install default-jre-headless"
        )
    if not list(folder.glob("beam-runners-flink-*.jar")):
        raise SettingsError(
            "Flink's jars are missing",
            where=JARS,
            remedy="Run 'make services', or set the variable to the folder that has them.",
        )
    return folder


class FlinkServices:
    """A worker pool for Python and a job server with an embedded Flink, both on loopback."""

    def __init__(self, *, slots: int, stderr: Any = None) -> None:
        self._slots, self._stderr = slots, stderr
        self.pool_port, self.job_port, self.artifact_port = _free_port(), _free_port(), _free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="vitalake-flink-"))

    def start(self) -> FlinkServices:
        """Start both and wait until they listen.

        Raises:
            SettingsError: jars or Java are missing.
            ServiceUnavailable: one of them did not come up.
        """
        jars = jars_folder()
        (self._folder / "config.yaml").write_text(_CONFIG.format(slots=self._slots))
        # The pool starts "python" by its bare name: this environment's must come first on the path, or the job waits
        # for ever without failing. PYTHONSAFEPATH keeps that process from importing from the current directory.
        own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONSAFEPATH": "1"}
        environment = os.environ | own
        pool = python_module("apache_beam.runners.worker.worker_pool_main", f"--service_port={self.pool_port}")
        server = ["java", "-Xmx1g", *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENS)]
        server += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}/*"]
        server += ["org.apache.beam.runners.flink.FlinkJobServerDriver", "--flink-master=[local]"]
        server += [f"--flink-conf-dir={self._folder}", "--job-host=127.0.0.1", f"--job-port={self.job_port}"]
        server += [f"--artifact-port={self.artifact_port}", "--expansion-port=0"]
        server += [f"--artifacts-dir={self._folder}/artifacts"]
        for command in (pool, server):
            self.processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._stderr or subprocess.DEVNULL,
                    stderr=self._stderr or subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,
                )
            )
        for port in (self.pool_port, self.job_port):
            _wait_until(lambda port=port: _listens(port), "Flink's job server did not start")  # type: ignore[misc]
        return self

    def options(self, *, parallelism: int) -> list[str]:
        """Return Beam's options to run on these services."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=127.0.0.1:{self.job_port}",
            f"--artifact_endpoint=127.0.0.1:{self.artifact_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{self.pool_port}",
            "--streaming",
            f"--parallelism={parallelism}",
        ]

    def stop(self) -> None:
        """End both and all processes that they have started; nothing is lost."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def flink_services(*, slots: int, stderr: Any = None) -> Iterator[FlinkServices]:
    """Start the services for a block of code; they end with the block, however it ends."""
    services = FlinkServices(slots=slots, stderr=stderr)
    try:
        yield services.start()
    finally:
        services.stop()


def submit(config_file: str, job: str, *, shards: int, options: StreamOptions, beam_options: list[str]) -> Any:
    """Submit the live lane and return Beam's result; the job runs on by itself."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.live.pipeline import build

    root = beam.Pipeline(options=PipelineOptions(beam_options))
    build(root, [LaneSpec(config_file, job, Shard(i, shards), options) for i in range(shards)])
    return root.run()


def run_on_flink(config_file: str, job: str, *, shards: int, options: StreamOptions) -> int:
    """Run the lane on Flink until Ctrl-C or until the job ends; return the exit code.

    Raises:
        SettingsError, ServiceUnavailable: Flink cannot be started here.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        services = stack.enter_context(flink_services(slots=shards))
        result = submit(
            config_file, job, shards=shards, options=options, beam_options=services.options(parallelism=shards)
        )
        while not stop.wait(POLL_SECONDS * 5):
            if str(result.state) in ("DONE", "FAILED", "CANCELLED"):
                return 0 if str(result.state) == "DONE" else ServiceUnavailable.exit_code
        result.cancel()
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(true: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise ServiceUnavailable(complaint, where="--runner flink", remedy="Start it by hand to see why.")
        time.sleep(POLL_SECONDS)
