"""The ward's time in a replay."""

from __future__ import annotations

from pipelines.online_store.playback import Replay


def test_a_replay_runs_as_fast_as_it_says_and_ends() -> None:
    replay = Replay(start_us=1_000, wall_us=50, speed=10.0, end_us=1_500)
    assert [replay.at(wall) for wall in (50, 60, 99, 1_000)] == [1_000, 1_100, 1_490, 1_500]
