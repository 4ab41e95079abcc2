"""Real services, started once a session."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from pipelines.broker import EmbeddedBroker
from tests.services.kafka import KafkaServer, why_not
from tests.services.postgres import PostgresServer
from tests.services.postgres import why_not as why_no_postgres
from tests.services.requirements import missing_service


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[str]:
    """The embedded broker's address."""
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


@pytest.fixture(scope="session")
def _kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer | None]:
    if why_not():
        yield None
        return
    server = KafkaServer(tmp_path_factory.mktemp("kafka")).start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def kafka(_kafka: KafkaServer | None) -> KafkaServer:
    """A real Apache Kafka, shared by the session."""
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
