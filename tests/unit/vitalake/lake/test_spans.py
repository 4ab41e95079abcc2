"""Spans: decided once, added once, whatever dies, hangs, comes twice or comes late."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deltalake.exceptions import CommitFailedError, DeltaError

from tests.unit.vitalake.lake import lake_process
from tests.unit.vitalake.lake.span_samples import (
    JOB,
    SHARD,
    begin,
    empty_span,
    open_lake,
    part,
    positions,
    staged_span,
    write_spans,
)
from vitalake.errors import InputError, LakeError, ServiceUnavailable, SettingsError
from vitalake.lake.commits.adding import add_span
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.commits.span import Counts
from vitalake.lake.commits.span_log import SpanConflict, Superseded, Unbalanced
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.table import Table

FENCE = "fence/observation"

POINTS = [
    "start-epoch", "start-rolled", "before-stage:2", "staged", "staged:2", "before-decide:2", "decided", "decided:3",
    "before-add", "added-one", "added-one:3", "added:2",
]  # fmt: skip


OUTCOMES = {
    "messages": ("decoded", "undecodable", "tombstones", "lost_upstream"),
    "rows": ("published", "rejected", "duplicate", "filtered", "held"),
}


@pytest.mark.parametrize(("whole", "outcome"), [(whole, each) for whole, parts in OUTCOMES.items() for each in parts])
def test_each_outcome_is_needed_for_counts_to_balance_and_none_counts_twice(whole: str, outcome: str) -> None:
    counts = Counts(messages=10, decoded=4, undecodable=3, tombstones=2, lost_upstream=1,
                    rows=15, published=5, rejected=4, duplicate=3, filtered=2, held=1)  # fmt: skip
    assert counts.balanced
    for change in (-1, 1):
        changed = msgspec.structs.replace(counts, **{outcome: getattr(counts, outcome) + change})
        assert not changed.balanced
        assert msgspec.structs.replace(changed, **{whole: getattr(counts, whole) + change}).balanced
    negative = {outcome: -1, whole: getattr(counts, whole) - getattr(counts, outcome) - 1}
    assert not msgspec.structs.replace(counts, **negative).balanced


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake that begins at 0, epoch 1."""
    lake = open_lake(tmp_path)
    begin(lake)
    return lake


def fresh(lake: Lake) -> Lake:
    return open_lake(Path(lake.storage.root))


def decided(lake: Lake) -> list[str]:
    return [span.span_id for span in fresh(lake).spans.all_spans()]


# -- the plain way -----------------------------------------------------------------------------------------------


def test_span_moves_its_partition_and_its_rows_appear_when_added(lake: Lake) -> None:
    span = staged_span(lake, 0, 5)
    lake.spans.decide(span)
    assert lake.spans.positions("observation", [part()]) == {part(): 5}
    assert positions(lake) == []
    lake.add(span)
    assert positions(lake) == [0, 1, 2, 3]
    lake.quarantine.refresh()
    assert lake.quarantine.scan(columns=["position"])["position"].to_pylist() == [4]
    assert list(fresh(lake).spans.all_spans()) == [span], "what is read is what was written"


def test_adding_again_and_by_others_adds_nothing(lake: Lake) -> None:
    span, other = staged_span(lake, 0, 5), fresh(lake)
    assert other.published.snapshot().files == {}
    lake.spans.decide(span)
    for adder in (lake, lake, other, fresh(lake)):
        adder.add(span)
    assert positions(lake) == [0, 1, 2, 3]


def test_span_without_rows_moves_the_partition_and_touches_no_table(lake: Lake) -> None:
    span = empty_span(0, 7)
    lake.spans.decide(span)
    version = lake.published.delta.version()
    lake.add(span)
    lake.published.refresh()
    assert lake.published.delta.version() == version
    assert summarise(lake.spans).to_json()["tombstones"] == 7
    assert verify(fresh(lake)) == []


# -- who may decide ----------------------------------------------------------------------------------------------


def test_of_two_writers_on_one_partition_exactly_one_wins(lake: Lake) -> None:
    other = fresh(lake)
    mine, theirs = staged_span(lake, 0, 5), staged_span(other, 0, 6)
    lake.spans.decide(mine)
    with pytest.raises(SpanConflict):
        other.spans.decide(theirs)
    assert decided(lake) == [mine.span_id]
    assert lake.spans.positions("observation", [part()]) == {part(): 5}


def test_span_is_thrown_away_whole_when_one_of_its_partitions_has_moved(lake: Lake) -> None:
    lake.spans.begin_at("observation", {part(1): 0})
    both = empty_span(0, 5)
    both.parts.append(empty_span(0, 5, at=part(1)).parts[0])
    lake.spans.decide(empty_span(0, 3, at=part(1)))
    with pytest.raises(SpanConflict, match=r"vitals\[1\]"):
        lake.spans.decide(both)
    assert lake.spans.positions("observation", [part(0), part(1)]) == {part(0): 0, part(1): 3}


def test_span_that_does_not_start_where_the_partition_is_conflicts(lake: Lake) -> None:
    for start in (3, 1):
        with pytest.raises(SpanConflict):
            lake.spans.decide(empty_span(start, 9))
    assert decided(lake) == []


def test_older_epoch_can_decide_nothing(lake: Lake) -> None:
    assert fresh(lake).spans.begin_epoch(job=JOB, shard=SHARD) == 2
    with pytest.raises(Superseded, match=r"load of a warehouse.*run this one again"):
        lake.spans.decide(empty_span(0, 5))
    lake.spans.decide(empty_span(0, 5, epoch=2))
    assert lake.spans.current_epoch(job=JOB, shard=SHARD) == 2


def test_unbalanced_span_commits_nothing(lake: Lake) -> None:
    lake.spans.table.refresh()
    version = lake.spans.table.delta.version()
    for counts in (Counts(messages=5, decoded=4), Counts(messages=5, decoded=5, rows=5, published=6, held=-1)):
        with pytest.raises(Unbalanced):
            lake.spans.decide(empty_span(0, 5, counts=counts))
    lake.spans.table.refresh()
    assert lake.spans.table.delta.version() == version


def test_second_job_on_a_topic_and_dataset_is_refused(lake: Lake) -> None:
    claim = {"dataset": "observation", "topic_ids": ["uuid-1"]}
    lake.spans.claim(job=JOB, **claim)  # type: ignore[arg-type]
    fresh(lake).spans.claim(job=JOB, **claim)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Another job.*If this job was renamed, give it its earlier name"):
        fresh(lake).spans.claim(job="labs", **claim)  # type: ignore[arg-type]
    fresh(lake).spans.claim(job="labs", dataset="observation", topic_ids=["uuid-2"])


def test_partition_is_begun_once(lake: Lake) -> None:
    with pytest.raises(SpanConflict):
        fresh(lake).spans.begin_at("observation", {part(): 9})
    assert lake.spans.positions("observation", [part(), part(1)]) == {part(): 0, part(1): None}


# -- what storage may do -----------------------------------------------------------------------------------------


class FailsAfter(Table):
    """A table whose storage commits and then fails to say so, once."""

    error: Exception | None = None

    def commit(self, **arguments: Any) -> None:
        super().commit(**arguments)
        error, self.error = self.error, None
        if error:
            raise error


def losing(table: Table, error: Exception, lake: Lake) -> FailsAfter:
    zone = "" if table.name == "spans" else table.name.partition("/")[0]
    failing = FailsAfter(table.dataset, lake.storage, zone=zone)
    failing.error = error
    return failing


def test_decision_whose_reply_was_lost_is_a_decision(lake: Lake) -> None:
    lake.spans.table = losing(lake.spans.table, CommitFailedError("lost"), lake)
    span = staged_span(lake, 0, 5)
    lake.spans.decide(span)
    assert decided(lake) == [span.span_id]


@pytest.mark.parametrize("error", [OSError("connection"), DeltaError("connection")])
def test_decision_repeated_after_an_outage_is_made_once(lake: Lake, error: Exception) -> None:
    lake.spans.table = losing(lake.spans.table, error, lake)
    span = staged_span(lake, 0, 5)
    with pytest.raises(ServiceUnavailable):
        lake.spans.decide(span)
    lake.spans.decide(span)
    assert decided(lake) == [span.span_id]
    lake.add(span)
    assert verify(fresh(lake)) == []


def test_addition_whose_reply_was_lost_is_made_once(lake: Lake) -> None:
    lake.published = losing(lake.published, CommitFailedError("lost"), lake)
    span = staged_span(lake, 0, 5)
    lake.spans.decide(span)
    lake.add(span)
    lake.add(span)
    assert positions(lake) == [0, 1, 2, 3]


def test_table_that_holds_half_of_a_span_stops_with_an_error(lake: Lake) -> None:
    lake.spans.begin_at("observation", {part(1): 0})
    span = staged_span(lake, 0, 5)
    span.parts.append(empty_span(0, 5, at=part(1)).parts[0])
    lake.spans.decide(span)
    lake.published.refresh()
    lake.published.commit(transactions={part(1).app_id("observation"): 5})
    with pytest.raises(LakeError, match="some partitions"):
        add_span(span, fresh(lake).published)


# -- dying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_kill_at_a_point_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    assert lake_process.run(tmp_path, "stream", 12, VITALAKE_CRASH_AT=point) == lake_process.KILLED
    assert lake_process.run(tmp_path, "stream", 16) == 0
    lake = open_lake(tmp_path)
    assert positions(lake) == [position for position in range(16) if position % 4 != 3]
    summary = summarise(lake.spans).to_json()
    assert (summary["balanced"], summary["messages"], summary["published"]) == (True, 16, 12)
    assert verify(lake) == []


def test_rolling_forward_adds_what_was_decided_with_the_files_of_then(lake: Lake) -> None:
    first = write_spans(lake, 2)
    last = staged_span(lake, 8, 12)
    lake.spans.decide(last)
    recent = fresh(lake).roll_forward([part()], since_us=first[0].decided_us)
    assert [span.span_id for span in recent] == [span.span_id for span in [*first, last]]
    assert positions(lake) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert verify(fresh(lake)) == []


def test_rolling_forward_reaches_back_to_each_partitions_last_span(lake: Lake) -> None:
    lake.spans.begin_at("observation", {part(1): 0})
    old = staged_span(lake, 0, 4, at=part(1))
    old.decided_us -= 3 * 86_400_000_000
    lake.spans.decide(old)
    new = write_spans(lake, 1)[0]
    recent = fresh(lake).roll_forward([part(0), part(1)], since_us=new.decided_us)
    assert {span.span_id for span in recent} == {old.span_id, new.span_id}
    assert verify(fresh(lake)) == []


def test_a_reader_that_begins_while_another_one_adds_is_refused_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took what was added between two of its looks for an entry that the spans table had lost, and ended with 13."""
    beginning, offsets = fresh(lake), iter(range(0, 1_000, 5))
    refresh = Table.refresh

    def refresh_late(table: Table) -> None:
        if table in (*beginning.tables, beginning.spans.table):  # the other one writes between any two looks
            start = next(offsets)
            span = staged_span(lake, start, start + 5)
            lake.spans.decide(span)
            lake.add(span)
        refresh(table)

    monkeypatch.setattr(Table, "refresh", refresh_late)
    beginning.roll_forward([part()], since_us=0)
    monkeypatch.undo()
    assert next(offsets) > 5 * len(list(beginning.tables))
    assert verify(fresh(lake)) == []


def test_partitions_that_were_read_and_closed_are_known_from_the_spans(lake: Lake) -> None:
    write_spans(lake, 2)
    assert lake.spans.read_partitions("observation") == ({part()}, set())
    end = empty_span(8, 8, counts=Counts())
    end.kind = "closed"
    lake.spans.decide(end)
    assert lake.spans.read_partitions("observation") == ({part()}, {part()})
    assert lake.spans.read_partitions("encounter") == (set(), set())


# -- the fence ---------------------------------------------------------------------------------------------------


def _between(monkeypatch: pytest.MonkeyPatch, table: Table, act: Callable[[], object]) -> None:
    """Do something once, after a table's next commit was planned and before it is made."""
    commit = Table.commit

    def commit_after(self: Table, **arguments: Any) -> None:
        if self is table:
            monkeypatch.setattr(Table, "commit", commit)
            act()
        commit(self, **arguments)

    monkeypatch.setattr(Table, "commit", commit_after)


def test_a_fence_raised_between_the_check_and_the_commit_of_a_span_refuses_the_span(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta let the span follow the raise, because they wrote other transactions: rows were shown by earlier rules."""
    span = staged_span(lake, 0, 5)
    _between(monkeypatch, lake.spans.table, lambda: fresh(lake).spans.raise_fence("observation"))
    with pytest.raises(SpanConflict):
        lake.spans.decide(span)
    assert list(fresh(lake).spans.all_spans()) == []


@pytest.mark.parametrize("begun", [True, False])
def test_no_span_of_the_earlier_fence_is_decided_after_a_raise(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """Whoever raises it adds what was decided before. A shard can begin, and check, while the raise is committed."""
    other, commit, raised = fresh(lake), Table.commit, list[dict[str, Any]]()

    def commit_in_turn(self: Table, **arguments: Any) -> None:
        if self is lake.spans.table and not raised:  # planned: the other decides first, but for its commit
            raised.append(arguments)
            where, shard, epoch = part(), SHARD, 1
            if not begun:
                where, shard = part(1), "1of2"
                other.spans.begin_at("observation", {where: 0})
                epoch = other.spans.begin_epoch(job=JOB, shard=shard)
            with suppress(SpanConflict):
                other.spans.decide(staged_span(other, 0, 5, at=where, epoch=epoch, shard=shard))
        elif self is other.spans.table and "add" in arguments and arguments["add"] and len(raised) == 1:
            with suppress(CommitFailedError):
                commit(lake.spans.table, **raised[0])
            raised.append({})
        commit(self, **arguments)

    monkeypatch.setattr(Table, "commit", commit_in_turn)
    lake.spans.raise_fence("observation")
    assert len(raised) == 2
    fence = 0
    for path in sorted(Path(lake.storage.root, "spans", "_delta_log").glob("*.json")):
        actions = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
        assert not (fence and any("add" in action for action in actions)), "decided after the raise"
        fence = max([fence, *(a["txn"]["version"] for a in actions if a.get("txn", {}).get("appId") == FENCE)])
    assert fence


def test_no_fence_goes_back_when_two_raise_several(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heights were compared at other versions than the one that they were committed on."""
    refresh, other = Table.refresh, fresh(lake)
    heights: list[int] = []

    def raise_meanwhile(table: Table) -> None:
        refresh(table)
        if table is lake.spans.table and not heights:
            heights.append(0)
            heights[-1] = other.spans.raise_fence("a")

    monkeypatch.setattr(Table, "refresh", raise_meanwhile)
    raised = lake.spans.raise_fences(["a", "b", "c"])
    assert raised["a"] > max(heights)
    assert fresh(lake).spans.fence("a") == raised["a"]


# -- which zones a dataset has -------------------------------------------------------------------------------------


def test_a_dataset_that_keeps_identified_rows_cannot_cease_to(tmp_path: Path) -> None:
    """Of rows published meanwhile there would be no identified ones: they could never be made again."""
    open_lake(tmp_path).open_all()
    lake = open_lake(tmp_path)
    lake.dataset = replace(lake.dataset, restricted=False)
    with pytest.raises(SettingsError, match="would not be any more"):
        lake.open_all()


def test_a_dataset_whose_rows_were_published_alone_cannot_begin_to_keep_them(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    write_spans(lake, 1, epoch=begin(lake))
    shutil.rmtree(tmp_path / "restricted", ignore_errors=True)
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match="Identified rows are missing"):
        open_lake(tmp_path).open_all()
    assert sorted(tmp_path.rglob("*")) == files, "nothing was made"


@pytest.mark.parametrize("name", ["restricted/observation", "published/observation"])
def test_a_lake_whose_making_was_killed_between_its_tables_is_made(tmp_path: Path, name: str) -> None:
    """Of two processes that made a table at the same moment each has committed, so it is of version 1."""
    table = open_lake(tmp_path).table(name)
    table.commit(transactions={})
    open_lake(tmp_path).open_all()
    assert all(open_lake(tmp_path).storage.holds_table(f"{zone}/observation") for zone in ("restricted", "published"))


def test_a_published_table_that_is_gone_is_not_made_by_a_lane(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    lake.restricted.commit(transactions={part().app_id("observation"): 4})
    with pytest.raises(Damaged, match="Published table is gone"):
        open_lake(tmp_path).open_all()
