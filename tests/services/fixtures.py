"""Real services, started once a session."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.simulator.broker import EmbeddedBroker
from tests import forking
from tests.services.kafka import KafkaServer, why_not
from tests.services.postgres import PostgresServer
from tests.services.postgres import why_not as why_no_postgres
from tests.services.requirements import missing_service


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[str]:
    """The embedded broker's address."""
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of a run of the tests share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home into which the demo's warehouse was loaded, once for all test processes; to be copied, not changed.

    Beside it, in ``demo.json`` and ``demo.errors``, is what the command printed.
    """
    folder = _shared(tmp_path_factory)
    home = folder / "demo" / "home"
    with _locked(folder / "demo.lock"):
        if not home.with_name("demo.json").exists():
            init_home(home, copy_samples)
            command = ("history", "load", "mimic-demo", "--home", str(home), "--json")
            done = subprocess.run(
                forking.command("vitalake", *command, kind="history"), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            home.with_name("demo.errors").write_text(done.stderr)
            home.with_name("demo.json").write_text(done.stdout)
    return home


class _SharedKafka(msgspec.Struct):
    """A Kafka that the processes of a run of the tests share: the first that needs it starts it, the last ends it."""

    bootstrap_servers: str
    process: int
    users: int


@pytest.fixture(scope="session")
def _kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    if why_not():
        yield None
        return
    folder = _shared(tmp_path_factory)
    record, lock = folder / "kafka.json", folder / "kafka.lock"
    with _locked(lock):
        if record.exists():
            shared = msgspec.json.decode(record.read_bytes(), type=_SharedKafka)
        else:
            server = KafkaServer(tmp_path_factory.mktemp("kafka")).start()
            shared = _SharedKafka(server.bootstrap_servers, server.process_id, users=0)
        shared.users += 1
        record.write_bytes(msgspec.json.encode(shared))
    yield shared.bootstrap_servers
    with _locked(lock):
        shared = msgspec.json.decode(record.read_bytes(), type=_SharedKafka)
        shared.users -= 1
        record.write_bytes(msgspec.json.encode(shared))
        if not shared.users:
            record.unlink()
            os.kill(shared.process, signal.SIGKILL)


@pytest.fixture
def kafka(_kafka: str | None) -> str:
    """The address of a real Apache Kafka, shared by the session."""
    if _kafka is None:
        missing_service("kafka", str(why_not()))
    assert _kafka is not None
    return _kafka


@pytest.fixture
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A real Apache Kafka for one test, which may restart it."""
    if why := why_not():
        missing_service("kafka", why)
    server = KafkaServer(tmp_path_factory.mktemp("kafka")).start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def _postgres() -> Iterator[PostgresServer | None]:
    if why_no_postgres():
        yield None
        return
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def postgres(_postgres: PostgresServer | None) -> PostgresServer:
    """A real PostgreSQL, shared by the session."""
    if _postgres is None:
        missing_service("postgres", str(why_no_postgres()))
    assert _postgres is not None
    return _postgres


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL for one test, which may stop it."""
    if why := why_no_postgres():
        missing_service("postgres", why)
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address that takes notifications over HTTP, and what it has got."""
    received: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"json://127.0.0.1:{server.server_address[1]}", received
        server.shutdown()
        thread.join()


@pytest.fixture
def dripping_receiver() -> Iterator[str]:
    """An address whose answer never ends: one byte each second, so that no timeout of a read ends it."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not over.wait(1):
                    self.wfile.write(b"x")
                    self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"json://127.0.0.1:{server.server_address[1]}"
        over.set()
        server.shutdown()
        thread.join()
