"""A real Apache Kafka of one node, from its jars by plain ``java``; on loopback, in a folder of its own."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import uuid
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.services.waiting import until

JARS = Path(os.environ.get("VITALAKE_KAFKA_JARS", Path(__file__).parents[2] / ".services" / "kafka"))

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/logs
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.flush.interval.messages=1000000
"""

LASTING = ("-XX:+UseSerialGC",)
SHORT_LIVED = (*LASTING, "-XX:TieredStopAtLevel=1")
"""Java's options for a process of seconds to minutes: the second compiler takes 2 of 5 s of a start and gives less."""


def why_not() -> str | None:
    """Return why Kafka cannot be started here; None if it can."""
    if not shutil.which("java"):
        return "there is no java; apt-get install default-jre-headless"
    return None if list(JARS.glob("kafka_2.13-*.jar")) else "there are no jars; run 'make services'"


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class KafkaServer:
    """One broker; keeps its data and port over a restart."""

    def __init__(self, folder: Path, *, java: tuple[str, ...] = SHORT_LIVED) -> None:
        self.folder = folder
        self._options = java
        self.port = free_port()
        self.bootstrap_servers = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "server.properties"
        self._config.write_text(_PROPERTIES.format(port=self.port, controller=free_port(), folder=folder))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # A leading dash would be taken for an option.
        self._java("kafka.tools.StorageTool", "format", "-t", f"A{cluster[1:]}", "-c", str(self._config)).wait(60)

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as out:
            return subprocess.Popen(
                ["java", "-Xms256m", "-Xmx512m", *self._options, "-cp", f"{JARS}/*", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> KafkaServer:
        """Start, and wait until the broker answers."""
        self._process = self._java("kafka.Kafka", str(self._config))
        until(self._answers, seconds=60, process=self._process)
        return self

    def _answers(self) -> bool:
        try:
            # A broker answers before it takes part in the cluster; describing it asks the controller too. Ended by
            # "with": the last reference is the error's traceback, which the client's own thread may free, and abort.
            with AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0}) as admin:
                return bool(admin.describe_cluster(request_timeout=1).result(2).nodes)
        except (KafkaException, TimeoutError):
            return False

    @property
    def process_id(self) -> int:
        """The id of the broker's process, while it runs."""
        assert self._process is not None
        return self._process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop by a signal and wait for the end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def restart(self) -> None:
        """Stop and start again, on the same port and data."""
        self.stop()
        self.start()
