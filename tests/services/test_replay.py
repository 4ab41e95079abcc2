"""Dead letters of a real lane, replayed: recovered once whatever happens on the way, and given up for good."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import vitalake
from tests.fhir import message
from tests.services.lane import LaneUnderTest
from vitalake.lake.verify import verify

KILLED = -signal.SIGKILL
GOOD = 20
UNKNOWN = 30
UNREADABLE = 10

POINTS = ["decode", "start-epoch", "start-rolled", "before-stage", "staged", "before-decide", "decided", "before-add"]
POINTS += ["added-one", "added-one:3", "added"]


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane that has taken 20 good messages, 30 of a code it does not know and 10 that nobody can read."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_rows=100, poll_messages=50, span_seconds=0.2)
    lane.create_topic()
    lane.send(message(i, patient=f"p-{i % 7}") for i in range(GOOD))
    lane.send(message(i, patient=f"p-{i % 7}", code=code("99999-1")) for i in range(100, 100 + UNKNOWN))
    lane.send(b"{" for _ in range(UNREADABLE))
    lane.run()
    assert lane.ledger()["published"] == GOOD
    return lane


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A folder with the package of a release whose vocabulary knows the code."""
    folder = tmp_path / "extended"
    shutil.copytree(Path(vitalake.__file__).parent, folder / "vitalake", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "vitalake" / "vocabulary" / "codes.yaml"
    document = yaml.safe_load(path.read_text())
    document["codes"]["99999-1"] = {"name": "New", "unit": "/min", "low": 1, "high": 400, "source": "extremes"}
    path.write_text(yaml.safe_dump(document))
    return folder


def code(loinc: str) -> dict[str, Any]:
    """Return a CodeableConcept."""
    return {"coding": [{"system": "http://loinc.org", "code": loinc}]}


def start(lane: LaneUnderTest, *arguments: str, package: Path, env: dict[str, str] | None = None) -> Any:
    """Start a command of ``vitalake dead-letters``, of a release."""
    return subprocess.Popen(
        [sys.executable, "-m", "vitalake", "dead-letters", *arguments, "--home", str(lane.home), "--json"],
        cwd=package,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(
    lane: LaneUnderTest, *arguments: str, package: Path, expect: int = 0, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run it to its end and return what it printed."""
    process = start(lane, *arguments, package=package, env=env)
    out, errors = process.communicate(timeout=90)
    assert process.returncode == expect, errors.decode()[-3000:]
    document: dict[str, Any] = msgspec.json.decode(out) if out else {}
    return document


def today(lane: LaneUnderTest) -> Path:
    """Return a folder from which a command runs the release that is tested."""
    return lane.home


def assert_recovered(lane: LaneUnderTest) -> None:
    """Assert that every known message's row is there once, under its own place, and that all books agree."""
    counts = lane.positions()
    assert set(counts.values()) == {1}
    assert len(counts) == GOOD + UNKNOWN
    assert {source for source, _ in counts} == {f"{lane.topic}[0]", f"{lane.topic}[1]"}
    ledger = lane.ledger()
    assert ledger["balanced"] is True
    assert (ledger["messages"], ledger["published"], ledger["recovered"]) == (lane.sent, GOOD, UNKNOWN)
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []
    listed = run(lane, "list", "--limit", "100", package=today(lane))
    assert (listed["open"], listed["recovered"], listed["total"]) == (UNREADABLE, UNKNOWN, UNKNOWN + UNREADABLE)
    resolution = lane.lake.table("quarantine/resolution").scan()
    assert resolution.num_rows == UNKNOWN
    assert len(set(zip(resolution["source"].to_pylist(), resolution["position"].to_pylist(), strict=True))) == UNKNOWN


def test_what_an_extended_vocabulary_knows_is_recovered_once(lane: LaneUnderTest, extended: Path) -> None:
    before = run(lane, "replay", package=today(lane))
    assert (before["recovered"], before["rejected_again"], before["spans"]) == (0, UNKNOWN + UNREADABLE, 0)
    assert before["reasons"] == {"unknown-code": UNKNOWN, "not-json": UNREADABLE}

    dry = run(lane, "replay", "--dry-run", package=extended)
    assert (dry["recovered"], dry["dry_run"]) == (UNKNOWN, True)
    assert len(lane.positions()) == GOOD

    done = run(lane, "replay", package=extended)
    assert (done["recovered"], done["rejected_again"], done["rows"]["published"]) == (UNKNOWN, UNREADABLE, UNKNOWN)
    assert_recovered(lane)
    again = run(lane, "replay", package=extended)
    assert (again["open"], again["recovered"], again["spans"]) == (UNREADABLE, 0, 0)
    assert_recovered(lane)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_replay_loses_and_doubles_nothing(lane: LaneUnderTest, extended: Path, point: str) -> None:
    run(lane, "replay", package=extended, expect=KILLED, env={"VITALAKE_CRASH_AT": point})
    run(lane, "replay", package=extended)
    assert_recovered(lane)
