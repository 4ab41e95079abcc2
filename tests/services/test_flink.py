"""The same pipeline on Flink: a worker killed in the middle, nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.live.lane import StreamOptions
from pipelines.runners.flink import FlinkServices, flink_services, jars_folder, submit
from tests.fhir import message
from tests.services.kafka import SHORT_LIVED
from tests.services.lane import LaneUnderTest
from tests.services.requirements import missing_service
from tests.services.waiting import until
from vitalake.errors import SettingsError

pytestmark = pytest.mark.flink

SHARDS = 2
FIRST, SECOND = 600, 400


@pytest.fixture
def flink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlinkServices]:
    """A job server with an embedded Flink, and a pool of Python workers."""
    monkeypatch.setenv("JDK_JAVA_OPTIONS", " ".join(SHORT_LIVED))
    os.environ.setdefault("VITALAKE_FLINK_JARS", str(Path(__file__).parents[2] / ".services" / "flink"))
    try:
        jars_folder()
    except SettingsError as error:
        missing_service("flink", str(error))
    with (tmp_path / "flink.log").open("wb") as log, flink_services(slots=SHARDS, stderr=log) as services:
        yield services


def _sdk_workers(services: FlinkServices) -> list[psutil.Process]:
    pool = psutil.Process(services.processes[0].pid)
    return [p for p in pool.children(recursive=True) if "sdk_worker" in " ".join(p.cmdline())]


def test_a_killed_worker_loses_and_doubles_nothing(
    flink: FlinkServices, home: Path, embedded_broker: str, topic_name: str
) -> None:
    lane = LaneUnderTest(home, embedded_broker, topic_name, partitions=4)
    lane.configure(span_seconds=0.3, bundle_seconds=3.0)
    lane.create_topic()
    lane.send(message(i) for i in range(FIRST))
    result = submit(
        str(home / "vitalake.yaml"),
        "vitals",
        shards=SHARDS,
        options=StreamOptions(),
        beam_options=flink.options(parallelism=SHARDS),
    )

    def published() -> int:
        there = lane.lake.storage.holds_table("spans")
        return int(str(lane.ledger()["published"])) if there else 0

    until(lambda: published() == FIRST, seconds=90)
    victims = _sdk_workers(flink)
    assert victims
    lane.send(message(FIRST + i) for i in range(SECOND // 2))
    victims[0].send_signal(signal.SIGKILL)
    lane.send(message(FIRST + SECOND // 2 + i) for i in range(SECOND // 2))
    until(lambda: published() == FIRST + SECOND, seconds=120)
    result.cancel()
    lane.assert_exactly_once(FIRST + SECOND)
