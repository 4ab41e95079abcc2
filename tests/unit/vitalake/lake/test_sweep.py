"""The sweeper deletes what nobody can commit any more, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.vitalake.lake.span_samples import JOB, SHARD, begin, open_lake, positions, staged_span, write_spans
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import SEEN, Span
from vitalake.lake.commits.span_log import SpanConflict, Superseded
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.sweep import _dead_rewrites, sweep
from vitalake.lake.maintenance.verify import verify


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake of two spans; rows 0 1 2 4 5 6."""
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 2)
    return lake


def on_disk(lake: Lake) -> set[str]:
    """Return every data file of the lake."""
    root = Path(lake.storage.root)
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and "_delta_log" not in p.parts}


def files_of(span: Span) -> set[str]:
    """Return the span's files, its row's aside."""
    return {f"{'spans-seen' if f.table == 'seen' else f.table}/{f.path}" for f in span.files}


def fresh(lake: Lake) -> Lake:
    return open_lake(Path(lake.storage.root))


def test_zombie_that_wakes_after_the_sweep_can_decide_nothing(lake: Lake) -> None:
    before = on_disk(lake)
    span = staged_span(lake, 8, 12)
    swept = sweep(fresh(lake), JOB, shards=[SHARD])
    assert swept.epochs == {SHARD: 2}
    assert sum(swept.deleted.values()) == 3
    assert on_disk(lake) == before
    with pytest.raises(Superseded):
        lake.spans.decide(span)
    assert positions(lake) == [0, 1, 2, 4, 5, 6]
    assert verify(fresh(lake)) == []
    assert sum(sweep(fresh(lake), JOB).deleted.values()) == 1, "the row that the zombie staged"
    assert on_disk(lake) == before


def test_files_of_a_living_writer_are_kept_and_it_goes_on(lake: Lake) -> None:
    span = staged_span(lake, 8, 12)
    assert sum(sweep(fresh(lake), JOB, lookback_seconds=0, lease_seconds=0).deleted.values()) == 2
    assert files_of(span) <= on_disk(lake), "only look-back files of the spans before were too old"
    lake.spans.decide(span)
    lake.add(span)
    assert positions(lake) == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_files_of_other_jobs_and_shares_are_kept(lake: Lake) -> None:
    others = [staged_span(lake, 8, 12, shard="1of2", epoch=0), staged_span(lake, 8, 12)]
    others[1].span_id = others[1].span_id.replace(JOB, "labs")
    staged = lake.published.stage(lake.published.scan(), stem=others[1].span_id)
    sweep(fresh(lake), JOB, shards=[SHARD])
    assert files_of(others[0]) <= on_disk(lake)
    assert lake.published.storage.exists(staged[0].path)


def test_successor_that_has_begun_makes_leftovers_deletable_without_naming_the_share(lake: Lake) -> None:
    before = on_disk(lake)
    staged_span(lake, 8, 12)
    lake.spans.begin_epoch(job=JOB, shard=SHARD)
    assert sum(sweep(fresh(lake), JOB).deleted.values()) == 3
    assert on_disk(lake) == before


def test_decided_span_of_a_dead_writer_is_added_and_not_deleted(lake: Lake) -> None:
    span = staged_span(lake, 8, 12)
    lake.spans.decide(span)
    swept = sweep(fresh(lake), JOB, shards=[SHARD])
    assert swept.rolled_forward == 1
    assert sum(swept.deleted.values()) == 0
    assert positions(lake) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert verify(fresh(lake)) == []


def test_decided_span_of_a_living_writer_is_left_to_it(lake: Lake) -> None:
    span = staged_span(lake, 8, 12)
    lake.spans.decide(span)
    assert sweep(fresh(lake), JOB).rolled_forward == 0
    lake.add(span)
    assert positions(lake) == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_look_back_files_go_when_they_are_older_than_twice_the_look_back(lake: Lake) -> None:
    seen = sorted(Path(lake.storage.root, "spans-seen").iterdir())
    old = clock.now().timestamp() - 7300
    os.utime(seen[0], (old, old))
    assert sweep(fresh(lake), JOB, lookback_seconds=3600).deleted["spans-seen"] == 1
    assert [path.exists() for path in seen] == [False, True]


def test_what_a_raised_fence_has_refused_is_deleted_by_its_writer(lake: Lake) -> None:
    before = on_disk(lake)
    refused = staged_span(lake, 8, 12)
    lake.spans.raise_fence("observation")
    with pytest.raises(SpanConflict):
        lake.decide(refused)
    assert not any(lake.table(file.table).storage.exists(file.path) for file in refused.files if file.table != SEEN)
    good = staged_span(lake, 8, 12)
    good.fence = lake.spans.fence("observation")
    lake.decide(good)
    lake.decide(good)  # a lost reply
    lake.spans.raise_fence("observation")
    lake.decide(good)
    lake.add(good)
    assert before < on_disk(lake)
    assert positions(lake) == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_half_written_files_go_with_their_writer(lake: Lake) -> None:
    name = staged_span(lake, 8, 12).files[0].path
    whole = Path(lake.published.storage.root, name)
    torn = whole.with_name(whole.name + ".part")
    whole.rename(torn)
    sweep(fresh(lake), JOB)
    assert torn.exists()
    sweep(fresh(lake), JOB, shards=[SHARD])
    assert not torn.exists()


def test_replaced_files_of_rewrites_stay_for_the_vacuum(lake: Lake) -> None:
    for start in (8, 16):
        compact(lake.published, min_files=2)
        write_spans(lake, 2, start=start)
    compact(lake.published, min_files=2)
    before = on_disk(lake)
    assert sum("rewrite." in path for path in before) == 3, "two of them replaced"
    sweep(fresh(lake), JOB, shards=[SHARD], lease_seconds=0)
    assert on_disk(lake) == before


def test_rewrite_that_began_after_the_fence_keeps_its_files_however_old_they_look(lake: Lake) -> None:
    compact(lake.published, min_files=2)
    begun, fenced = f"rewrite.2.{'a' * 32}-0", f"rewrite.1.{'b' * 32}-0"
    staged = [lake.published.stage(lake.published.scan(), stem=stem)[0].path for stem in (begun, fenced)]
    listed = dict.fromkeys(staged, 0.0)
    assert _dead_rewrites(lake.published, listed, lease_seconds=0) == [staged[1]]


def test_sweep_of_a_swept_lake_does_nothing(lake: Lake) -> None:
    staged_span(lake, 8, 12)
    sweep(fresh(lake), JOB, shards=[SHARD])
    before, version = on_disk(lake), fresh(lake).published.delta.version()
    assert sum(sweep(fresh(lake), JOB).deleted.values()) == 0
    assert (on_disk(lake), fresh(lake).published.delta.version()) == (before, version)
