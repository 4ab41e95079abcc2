"""A lane keeps its tables up by itself: few files, nothing left by the dead, the same rows for readers."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.fhir import message
from tests.services.lane import LaneUnderTest
from tests.services.waiting import until
from vitalake.lake.maintenance.sweep import dead_shards
from vitalake.lake.maintenance.verify import verify

WAVES, WAVE = 12, 20


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane that commits often, on an empty topic."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_rows=100, poll_messages=50, span_seconds=0.05, bundle_seconds=0.5)
    lane.create_topic()
    return lane


@contextmanager
def _stream(lane: LaneUnderTest, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``vitalake stream`` with upkeep twice a second, and stop it as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vitalake", "stream", "--home", str(lane.home), "--no-view", "--json", *arguments],
        env=os.environ | {"VITALAKE_MAINTENANCE__EVERY_SECONDS": "0.5"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        process.kill()


def _upkeep_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if _is_upkeep(child)]


def _is_upkeep(child: psutil.Process) -> bool:
    try:
        return "pipelines.live.upkeep" in child.cmdline()
    except psutil.Error:  # it has ended this moment
        return False


def test_a_running_lane_merges_its_files_and_readers_never_see_other_rows(lane: LaneUnderTest) -> None:
    seen = [0]

    def reached(expected: int) -> bool:
        if lane.lake.storage.holds_table("published/observation"):
            seen.append(lane.published().num_rows)
        assert seen[-1] >= seen[-2 if len(seen) > 1 else -1], "rows that were there are gone"
        assert seen[-1] <= expected, "rows were doubled"
        return seen[-1] == expected

    with _stream(lane) as process:
        for wave in range(WAVES):
            lane.send(message(wave * WAVE + i) for i in range(WAVE))
            until(functools.partial(reached, (wave + 1) * WAVE), process=process)
            if wave == WAVES // 2:
                until(lambda: _upkeep_of(process), process=process)
                for victim in _upkeep_of(process):
                    victim.kill()
        spans = len(list(lane.lake.spans.all_spans()))
        assert spans >= WAVES
        until(lambda: len(lane.lake.published.snapshot().files) < 8, process=process)
        until(lambda: len(lane.lake.spans.table.snapshot().files) < 8, process=process)
    lane.assert_exactly_once(WAVES * WAVE)
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []


def test_what_killed_workers_of_another_number_have_left_is_swept(lane: LaneUnderTest) -> None:
    lane.send(message(i) for i in range(WAVE))
    lane.run(expect=-signal.SIGKILL, env={"VITALAKE_CRASH_AT": "staged"})
    assert dead_shards(lane.lake, "vitals", workers=2) == ["0of1"]
    with _stream(lane, "--workers", "2") as process:
        until(lambda: dead_shards(lane.lake, "vitals", workers=2) == [], process=process)
        until(lambda: lane.ledger()["published"] == WAVE, process=process)
    lane.assert_exactly_once(WAVE)
