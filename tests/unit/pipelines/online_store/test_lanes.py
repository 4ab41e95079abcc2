"""The heartbeats of lanes: who ended by itself stays on record."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.serving.health import lane_troubles, missing_troubles
from models.serving.zone import clock_time
from tests.unit.pipelines.online_store.store_samples import MINUTE, open_store
from vitalake import clock


def test_of_a_lane_that_ended_by_itself_that_stays_known_and_a_dead_job_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From two days later on, a job that had ended properly was reported as one that never started."""
    store, now = open_store(tmp_path), clock.now_us()
    for writer, ended in (("done/0of1", True), ("dead/0of2", True), ("dead/1of2", False)):
        store.lanes.beat(writer, ended=ended)
    monkeypatch.setattr(clock, "now_us", lambda: now + 72 * 60 * MINUTE)
    store.prune()
    lanes = store.lanes.beats()
    assert [*lanes] == ["done/0of1"]
    assert lane_troubles(lanes, now_us=clock.now_us()) == []
    (told,) = lane_troubles(lanes, now_us=clock.now_us(), expected={"done"})
    assert (told.code, clock_time(now) in told.text) == ("stream-ended", True), "expected, it is missing for ever"
    assert missing_troubles({"done"}, lanes, made_us=now) == []
    assert [one.code for one in missing_troubles({"done", "dead"}, lanes, made_us=now)] == ["stream-silent"]
