"""Replays into a real (embedded) broker: counts agree with what lies in the topic; stops cleanly."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from pipelines.simulator.broker import EmbeddedBroker
from pipelines.simulator.faults import FAULTS
from pipelines.simulator.replay import Simulation, SimulationSummary, simulate
from vitalake.errors import ServiceUnavailable, SettingsError


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        yield broker.bootstrap_servers


def records(
    bootstrap: str, topic: str, count: int, *, most: int | None = None
) -> list[tuple[int, bytes, bytes | None]]:
    """Return partition, key and value of ``count`` records and of any that come soon after, up to ``most``."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(4)])
    found: list[tuple[int, bytes, bytes | None]] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        batch = consumer.consume(most or 10_000, 0.3)
        found += [(each.partition(), each.key(), each.value()) for each in batch if not each.error()]
        if len(found) >= count and (most or not batch):
            break
    consumer.close()
    return found


def test_summary_counts_what_lies_in_the_topic(bootstrap: str, tmp_path: Path) -> None:
    plan = Simulation(source="synthetic", topic="counts", rate=0, faults=0.5, count=5000, seed=2)
    summary = simulate(plan, bootstrap=bootstrap, home=tmp_path)
    found = records(bootstrap, "counts", 5000)
    assert summary.messages == len(found) == 5000
    assert set(summary.faults) == set(FAULTS)
    assert all(summary.faults.values())
    assert summary.tombstones == summary.faults["tombstone"] == sum(value is None for _, _, value in found)
    repeated = sum(times - 1 for value, times in Counter(value for _, _, value in found if value).items())
    assert summary.faults["duplicate"] == repeated
    assert summary.faults["registered"] == sum(b'"registered"' in (value or b"") for _, _, value in found)
    assert summary.devices == 100


def test_a_patient_s_messages_lie_in_one_partition(bootstrap: str, tmp_path: Path) -> None:
    plan = Simulation(source="synthetic", topic="keys", rate=0, count=2000)
    simulate(plan, bootstrap=bootstrap, home=tmp_path)
    places = {(key, partition) for partition, key, _ in records(bootstrap, "keys", 2000)}
    assert len(places) == 100
    assert len({partition for _, partition in places}) == 4


def test_replays_of_the_demo_send_the_same_values(bootstrap: str, tmp_path: Path) -> None:
    sent = []
    for topic in ("once", "again"):
        plan = Simulation(topic=topic, rate=0, hours=3, seed=5)
        summary = simulate(plan, bootstrap=bootstrap, home=tmp_path)
        sent.append(sorted(records(bootstrap, topic, summary.messages), key=str))
    assert sent[0]
    assert sent[0] == sent[1]


def test_pace_by_rate_is_kept(bootstrap: str, tmp_path: Path) -> None:
    plan = Simulation(source="synthetic", topic="pace", rate=1000, count=1500)
    began = time.monotonic()
    summary = simulate(plan, bootstrap=bootstrap, home=tmp_path)
    assert time.monotonic() - began >= 1.499
    assert summary.messages == 1500
    assert len(records(bootstrap, "pace", 1500)) == 1500


def test_stop_ends_an_endless_source_with_everything_delivered(bootstrap: str, tmp_path: Path) -> None:
    stop, seen = threading.Event(), list[int]()

    def watch(summary: SimulationSummary) -> None:
        seen.append(summary.messages)
        stop.set()

    plan = Simulation(source="synthetic", topic="stopped", rate=5000)
    summary = simulate(plan, bootstrap=bootstrap, home=tmp_path, stop=stop, on_progress=watch)
    assert summary.messages >= seen[0] > 0
    assert len(records(bootstrap, "stopped", summary.messages)) == summary.messages


def test_lost_broker_ends_in_an_error_not_in_a_count(tmp_path: Path) -> None:
    with EmbeddedBroker() as broker:
        plan = Simulation(source="synthetic", topic="lost", rate=2000)
        options = {"message.timeout.ms": "1000"}
        with pytest.raises(ServiceUnavailable, match="not delivered"):
            simulate(
                plan,
                bootstrap=broker.bootstrap_servers,
                home=tmp_path,
                options=options,
                on_progress=lambda _: broker.stop(),
            )


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 10.0, "speed": 2.0},
        {"source": "synthetic", "speed": 2.0},
        {"source": "synthetic", "hours": 2.0},
        {"faults": 1.5},
        {"patients": 0},
    ],
)
def test_contradicting_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Simulation(**wrong)  # type: ignore[arg-type]  # as from a caller without types
