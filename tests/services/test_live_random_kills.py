"""Kills at seeded random moments, again and again, while messages keep coming."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.fhir import message
from tests.services.lane import LaneUnderTest

PER_KILL = 200


@pytest.mark.parametrize(
    ("kills", "seed"),
    [pytest.param(25, 1, marks=pytest.mark.ci), pytest.param(200, 2, marks=pytest.mark.kills)],
)
@pytest.mark.timeout(3600)
def test_random_kills_lose_and_double_nothing(
    home: Path, embedded_broker: str, topic_name: str, kills: int, seed: int
) -> None:
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_seconds=0.1, span_rows=60, poll_messages=40)
    lane.create_topic()
    chance = random.Random(seed)
    killed = 0
    for _ in range(kills):
        begin = lane.sent
        lane.send(message(begin + i, patient=f"p-{i % 9}") for i in range(PER_KILL))
        process = lane.start(idle=None)
        try:
            process.wait(timeout=chance.uniform(1.3, 3.0))
        except subprocess.TimeoutExpired:
            killed += 1
        process.kill()
        process.communicate()
    assert killed == kills, "no worker ended by itself"
    lane.run()
    lane.assert_exactly_once(kills * PER_KILL)
