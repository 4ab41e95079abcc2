"""The store knows when it lacks rows: it is new, an older copy, or not filled yet."""

from __future__ import annotations

from pathlib import Path

from tests.unit.pipelines.online_store.store_samples import open_store
from vitalake import clock


def test_a_store_is_an_older_copy_where_a_lane_decided_rows_long_after_it_last_spoke_here(tmp_path: Path) -> None:
    """Lanes of admissions store no positions: each of their restarts was reported as an older copy."""
    store = open_store(tmp_path)
    now = clock.now_us()
    assert not store.completeness.is_older("adt/0of1", now + 3_600_000_000), "nobody can tell"
    store.lanes.beat("adt/0of1")
    assert not store.completeness.is_older("adt/0of1", now + 5_000_000), "it was killed"
    assert store.completeness.is_older("adt/0of1", now + 3_600_000_000)
    store.completeness.note_filled()
    assert store.completeness.is_older("adt/0of1", now + 3_600_000_000)
    assert not store.completeness.is_older("adt/0of1", now)


def test_a_store_lacks_what_came_before_until_it_is_filled(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.completeness.incomplete_since_us() == 0
    store.completeness.note_incomplete()
    assert store.completeness.incomplete_since_us() > 0
    store.completeness.note_filled()
    assert store.completeness.incomplete_since_us() == 0
