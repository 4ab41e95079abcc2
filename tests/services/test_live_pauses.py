"""Zombies, full disks and stopped workers: the lane waits, gives way or goes on, and the count is right."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from governance.belonging import open_vault
from governance.keyservice import KeyRevoked
from pipelines.intake.steps import make_sealer
from pipelines.live.lane import StreamOptions
from pipelines.live.supervisor import Supervisor, View, worker_pids
from tests import forking
from tests.fhir import message
from tests.services.lane import LaneUnderTest
from tests.services.waiting import until
from vitalake.errors import PrivacyError
from vitalake.keys import load_keys
from vitalake.lake.maintenance.sweep import sweep
from vitalake.settings import load_settings

MESSAGES = 300


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane with messages waiting."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_rows=100, poll_messages=50, span_seconds=0.2, bundle_seconds=60.0)
    lane.create_topic()
    lane.send(message(i) for i in range(MESSAGES))
    return lane


@pytest.mark.parametrize("point", ["staged", "before-decide", "before-add", "added-one"])
def test_a_zombie_that_wakes_after_its_successor_has_swept_changes_nothing(
    lane: LaneUnderTest, tmp_path: Path, point: str
) -> None:
    held = tmp_path / "held"
    zombie = lane.start(env={"VITALAKE_PAUSE_AT": point, "VITALAKE_PAUSE_FILE": str(held)}, forked=True)
    try:
        until(held.exists, process=zombie)
        lane.run()
        sweep(lane.lake, "vitals", shards=["0of1"])
        held.unlink()
        _, errors = zombie.communicate(timeout=60)
    finally:
        zombie.kill()
    lane.assert_exactly_once(MESSAGES)
    assert zombie.returncode in (0, 13, 75), errors.decode()[-2000:]
    if point in ("staged", "before-decide"):
        assert zombie.returncode == 13, "its decision came too late, and it must not come back"
        assert "successor" in errors.decode()


def test_a_full_disk_pauses_the_lane_and_it_goes_on_by_itself(lane: LaneUnderTest) -> None:
    process = lane.start(idle=None)
    try:
        until(lambda: lane.lake.storage.holds_table("spans"), process=process)
        until(lambda: lane.ledger()["published"] == MESSAGES, process=process)
        limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        # As a disk does when it is full: every write to a file is refused.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        lane.send(message(MESSAGES + i) for i in range(100))
        until(lambda: lane.status(process).state == "paused", process=process)
        assert "waiting, goes on by itself" in lane.status(process).reason
        assert lane.ledger()["published"] == MESSAGES
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
        until(lambda: lane.ledger()["published"] == MESSAGES + 100, process=process)
        until(lambda: lane.status(process).state == "running", process=process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    lane.assert_exactly_once(MESSAGES + 100)


def test_a_worker_whose_rules_are_broken_pauses_says_so_once_and_goes_on_when_they_are_corrected(
    lane: LaneUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(str(lane.home / "vitalake.yaml"), "vitals", workers=1, options=StreamOptions())
    rules = lane.home / "governance" / "limited-data-set.yaml"
    good = rules.read_text()

    def is_so(true: Callable[[View], bool]) -> None:
        until(lambda: supervisor.tick() is None and true(supervisor.view()))

    supervisor.start()
    try:
        is_so(lambda view: view.counts.messages == MESSAGES)
        rules.write_text("rules: [")
        os.kill(worker_pids(supervisor)[0], signal.SIGKILL)
        lane.send(message(MESSAGES + i) for i in range(50))
        is_so(lambda view: view.state == "paused")
        is_so(lambda view: view.restarts == 2)
        assert supervisor.view().state == "paused", "also while it is started again"
        assert rules.name in supervisor.view().reasons[0]
        rules.write_text(good)
        is_so(lambda view: view.state == "running" and view.counts.messages == lane.sent)
    finally:
        assert supervisor.stop_and_wait() == 0
    why = [record for record in caplog.records if rules.name in getattr(record, "where", "")]
    assert len(why) == 1, "once, not at every try"
    lane.assert_exactly_once(lane.sent)


def test_a_worker_whose_rules_were_never_right_ends_the_stream(lane: LaneUnderTest) -> None:
    (lane.home / "governance" / "limited-data-set.yaml").write_text("rules: [")
    supervisor = Supervisor(str(lane.home / "vitalake.yaml"), "vitals", workers=1, options=StreamOptions())
    supervisor.start()
    try:
        until(lambda: supervisor.tick() == PrivacyError.exit_code)
    finally:
        supervisor.stop_and_wait()


def test_a_lane_that_is_idle_for_longer_than_a_bundle_ends(lane: LaneUnderTest) -> None:
    lane.configure(bundle_seconds=0.5)
    lane.run(idle=1.5)
    lane.assert_exactly_once(MESSAGES)


def test_a_worker_that_is_killed_again_and_again_decides_something_each_time(lane: LaneUnderTest) -> None:
    lane.configure(span_rows=1_000, span_seconds=30.0)
    done = 0
    for _ in range(2):
        lane.run(expect=-signal.SIGKILL, env={"VITALAKE_CRASH_AT": "added"})
        published = int(str(lane.ledger()["published"]))
        assert published > done, "a span of thirty seconds is never decided by a worker that lives for two"
        done = published


def _keys(home: Path, *arguments: str) -> None:
    command = forking.command("vitalake", "keys", *arguments, "--home", str(home))
    subprocess.run(command, check=True, capture_output=True)


def test_a_revoked_key_pauses_the_lane_and_closes_what_is_identified_until_it_is_back(lane: LaneUnderTest) -> None:
    process = lane.start(idle=None, forked=True)
    try:
        until(lambda: lane.lake.storage.holds_table("spans"), process=process)
        until(lambda: lane.ledger()["published"] == MESSAGES, process=process)
        _keys(lane.home, "revoke")

        def paused() -> bool:
            lane.send([message(lane.sent)])  # what comes in the lease's last second is published still
            return lane.status(process).state == "paused"

        until(paused, process=process)
        reason = lane.status(process).reason
        assert "revoked" in reason
        assert "goes on by itself" in reason
        published = lane.ledger()["published"]
        lane.send(message(lane.sent + i) for i in range(100))
        settings = load_settings(lane.home)
        keys = load_keys(settings.path(settings.keys))
        vault = open_vault(settings, keys)
        with pytest.raises(KeyRevoked):
            make_sealer(lane.lake.dataset, vault, keys).open(lane.lake.restricted.scan())
        vault.close()
        assert lane.lake.published.delta.to_pyarrow_table().num_rows == published, "published is read without a key"
        assert lane.ledger()["published"] == published
        _keys(lane.home, "revoke", "--undo")
        until(lambda: lane.ledger()["published"] == lane.sent, process=process)
        until(lambda: lane.status(process).state == "running", process=process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    lane.assert_exactly_once(lane.sent)


def test_a_stopped_worker_finishes_what_it_holds(lane: LaneUnderTest) -> None:
    lane.configure(span_seconds=30.0, span_rows=10_000)
    process = lane.start(idle=None)
    try:
        until(lambda: lane.status(process).taken == MESSAGES, process=process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    lane.assert_exactly_once(MESSAGES)


def test_a_duplicate_is_recognised_after_a_restart_and_in_its_partition_only(lane: LaneUnderTest) -> None:
    lane.run()
    lane.send([message(0), message(2)], partition=0)
    lane.send([message(0)], partition=1)
    lane.run()
    ledger = lane.ledger()
    assert ledger["duplicate"] == 2
    assert ledger["published"] == MESSAGES + 1
    assert ledger["balanced"] is True
