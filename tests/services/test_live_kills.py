"""Kill -9 anywhere: nothing lost, nothing twice, the ledger balanced."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import yaml

from tests.fhir import message
from tests.services.lane import LaneUnderTest

MESSAGES = 400
KILLED = -signal.SIGKILL

POINTS = ["decode:2", "before-stage", "staged", "before-decide", "decided", "before-add", "added-one", "start-epoch"]


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane with 400 good messages waiting in two partitions."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_rows=100, poll_messages=50, span_seconds=0.2)
    lane.create_topic()
    lane.send(message(i, patient=f"p-{i % 7}") for i in range(MESSAGES))
    return lane


@pytest.mark.parametrize("point", POINTS)
def test_kill_at_a_point_loses_and_doubles_nothing(lane: LaneUnderTest, point: str) -> None:
    lane.run(expect=KILLED, env={"VITALAKE_CRASH_AT": point})
    lane.run()
    lane.assert_exactly_once(MESSAGES)


def test_rules_changed_between_kill_and_restart_do_not_change_what_was_decided(lane: LaneUnderTest) -> None:
    lane.run(expect=KILLED, env={"VITALAKE_CRASH_AT": "decided"})
    rules = lane.home / "governance" / "limited-data-set.yaml"
    document = yaml.safe_load(rules.read_text())
    document["rules"].append(
        {
            "id": "drop-values",
            "what": {"column": "value"},
            "then": {"mask": "drop"},
            "reason": "changed in between",
            "legal_basis": "test",
            "owner": "privacy officer",
        }
    )
    rules.write_text(yaml.safe_dump(document))
    lane.run()
    lane.assert_exactly_once(MESSAGES)
    versions = {span.rules for span in lane.lake.spans.all_spans()}
    values = lane.published()["value"].to_pylist()
    assert len(versions) == 2
    assert 0 < values.count(None) < MESSAGES, "the decided span keeps its rows, the later ones follow the new rule"


def test_seeded_random_kills(lane: LaneUnderTest) -> None:
    seed = 7
    chance = random.Random(seed)
    for _ in range(3):
        process = lane.start()
        with process:
            try:
                process.wait(timeout=chance.uniform(1.2, 2.6))
            except Exception:  # the moment has come
                process.kill()
            begin = lane.sent
            lane.send(message(begin + i, patient="p-9") for i in range(100))
    lane.run()
    lane.assert_exactly_once(MESSAGES + 300)
