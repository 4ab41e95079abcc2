"""Rewrites: whatever happens beside them or to them, readers see the same rows, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from tests.services.waiting import until
from tests.unit.vitalake.lake import lake_process
from tests.unit.vitalake.lake.span_samples import begin, open_lake, positions, write_spans
from vitalake.errors import LakeError, ServiceUnavailable
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.deletion import over_newest
from vitalake.lake.maintenance.rewrite import rewrite
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.maintenance.vacuum import vacuum
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

ROWS = list(range(30))
ROWS_PUBLISHED = [position for position in ROWS if position % 5 != 4]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake of six spans over two days: twelve files, 24 rows."""
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 6, size=5, days=2)
    return lake


def everything(snapshot: Snapshot) -> list[StagedFile]:
    """Plan all files."""
    return list(snapshot.files.values())


def as_one(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Make one file of all rows."""
    yield pa.concat_tables(batches)


def files_on_disk(table: Table) -> set[str]:
    return set(table.storage.files(suffix=""))


# -- what readers see --------------------------------------------------------------------------------------------


def read_by(engine: str, uri: str) -> list[tuple[Any, ...]]:
    """Return all rows as an engine of somebody else sees them, in order."""
    if engine == "delta-rs":
        table = DeltaTable(uri).to_pyarrow_table()
    elif engine == "polars":
        table = pl.read_delta(uri).to_arrow()
    else:
        table = duckdb.read_parquet(DeltaTable(uri).file_uris(), hive_partitioning=True).to_arrow_table()
    names = ["source_position", "patient_id", "code", "value", "effective_at", "observation_id"]
    return sorted(tuple(row[name] for name in names) for row in table.select(names).to_pylist())


@pytest.mark.parametrize("engine", ["delta-rs", "polars", "duckdb"])
def test_compaction_changes_nothing_that_other_engines_read(lake: Lake, engine: str) -> None:
    before = read_by(engine, lake.published.storage.uri)
    done = compact(lake.published, min_files=2)
    assert (done.days, done.files_before, done.files_after, done.rows) == (2, 12, 2, 24)
    assert len(before) == 24
    assert read_by(engine, lake.published.storage.uri) == before


def test_a_count_beside_maintenance_that_deletes_what_it_reads_is_of_the_newest_version(
    lake: Lake, tmp_path: Path
) -> None:
    table, other = lake.published, open_lake(tmp_path).published
    table.refresh()
    rows = sum(file.rows for file in table.snapshot().files.values())
    asked: list[str] = []

    def count(file: StagedFile) -> int:
        asked.append(file.path)
        if len(asked) == 1:
            rewrite(other, everything, as_one)
            table.storage.delete(file.path)
            raise FileNotFoundError
        return file.rows

    assert over_newest(table, count) == rows
    assert len(set(asked)) == len(asked)

    def gone(file: StagedFile) -> int:
        raise FileNotFoundError

    with pytest.raises(ServiceUnavailable):
        over_newest(table, gone)


def test_every_table_can_be_compacted_and_is_good_then(lake: Lake) -> None:
    for table in (lake.published, lake.quarantine, lake.spans.table):
        table.refresh()
        before = table.scan().num_rows
        assert compact(table, min_files=2).files_before > 2
        assert table.scan().num_rows == before
        assert compact(table, min_files=2).days == 0, "a good day is not rewritten again"


def test_compacted_files_are_sorted_and_keep_no_statistics_on_patient_columns(lake: Lake) -> None:
    compact(lake.published, min_files=2)
    for path in lake.published.snapshot().files:
        with lake.published.storage.open(path) as file:
            group, table = file.metadata.row_group(0), file.read()
        assert table.schema.equals(lake.published.dataset.schema)
        keys = list(zip(table["effective_at"].to_pylist(), table["code"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert {name for name, c in columns.items() if c.is_stats_set} == {"code", "effective_at"}
        assert all(c.compression == "ZSTD" for c in columns.values())
    log = b"".join(path.read_bytes() for path in Path(lake.published.storage.root, "_delta_log").glob("*.json"))
    assert b"minValues" not in log


def test_files_are_cut_at_the_target_and_only_closed_days_are_touched(lake: Lake) -> None:
    done = compact(lake.published, target_rows=5, min_files=2, closed_before="2026-03-02")
    assert done.days == 1
    rows = {
        day: [f.rows for f in lake.published.snapshot().files.values() if f.day == day]
        for day in ("2026-03-01", "2026-03-02")
    }
    assert sorted(rows["2026-03-01"]) == [2, 5, 5]
    assert len(rows["2026-03-02"]) == 6
    assert positions(lake) == ROWS_PUBLISHED


def test_merging_ends_even_where_rows_shrink_when_they_are_together(lake: Lake) -> None:
    lake.quarantine.refresh()
    sizes = [file.size for file in lake.quarantine.snapshot().files.values()]
    rounds = 0
    while compact(lake.quarantine, target_bytes=2 * max(sizes) + 1, min_files=2).days:
        rounds += 1
        assert rounds < 5
    assert len(lake.quarantine.snapshot().files) < len(sizes)
    assert lake.quarantine.scan().num_rows == 6


# -- what must not be committed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda t: t.slice(1), lambda t: pa.concat_tables([t, t])])
def test_rewrite_that_loses_or_doubles_rows_is_refused(lake: Lake, change: Callable[[pa.Table], pa.Table]) -> None:
    lake.published.refresh()
    before, version = files_on_disk(lake.published), lake.published.delta.version()
    with pytest.raises(LakeError, match="rows out of 24"):
        rewrite(lake.published, everything, lambda batches: map(change, as_one(batches)))
    lake.published.refresh()
    assert lake.published.delta.version() == version
    assert files_on_disk(lake.published) == before


def test_rewrite_that_says_so_may_drop_rows(lake: Lake) -> None:
    def without_first(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        yield pa.concat_tables(batches).filter(pa.compute.field("source_position") > 0)

    result = rewrite(lake.published, everything, without_first, data_change=True)
    assert result is not None and result.rows == 23
    assert positions(lake) == ROWS_PUBLISHED[1:]


# -- others at the same time -------------------------------------------------------------------------------------


def test_second_of_two_rewrites_from_one_snapshot_throws_its_files_away(lake: Lake) -> None:
    other = open_lake(Path(lake.storage.root)).published
    others: list[set[str]] = []

    def slow(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        rows = pa.concat_tables(batches)
        if not others:
            assert compact(other, min_files=2).days == 2
            others.append(set(other.snapshot().files))
        yield rows

    result = rewrite(lake.published, everything, slow)
    assert result is not None and {file.path for file in result.removed} == others[0], "planned again on what is there"
    assert positions(lake) == ROWS_PUBLISHED
    kept = {file.path for file in result.added} | others[0]
    assert {p for p in files_on_disk(lake.published) if "rewrite." in p} == kept


def test_rewrite_of_stale_files_that_a_fresh_snapshot_would_accept_is_planned_again(lake: Lake) -> None:
    stale = lake.published.snapshot()
    compact(open_lake(Path(lake.storage.root)).published, min_files=2)
    plans: list[Snapshot] = []

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        plans.append(snapshot)
        return everything(snapshot)

    rewrite(lake.published, plan, as_one)
    assert set(plans[0].files).isdisjoint(stale.files)
    assert positions(lake) == ROWS_PUBLISHED


def test_appends_go_on_beside_a_compaction(lake: Lake) -> None:
    other = open_lake(Path(lake.storage.root))

    def slow(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        write_spans(other, 2, size=5, days=2, start=30 + 10 * len(appended))
        appended.append(1)
        yield from as_one(batches)

    appended: list[int] = []
    assert rewrite(lake.published, everything, slow) is not None
    assert len(appended) == 1, "an append does not make a row-preserving rewrite start again"
    assert positions(lake) == [position for position in range(40) if position % 5 != 4]


class LosesReply(Table):
    """A table whose storage commits and then fails to say so, once."""

    error: Exception = CommitFailedError("reply lost")
    meanwhile: Callable[[], object] = staticmethod(lambda: None)
    lost = False

    def commit(self, **arguments: Any) -> None:
        super().commit(**arguments)
        if not self.lost:
            self.lost = True
            type(self).meanwhile()
            raise self.error


def losing(lake: Lake, error: Exception, meanwhile: Callable[[], object] = lambda: None) -> LosesReply:
    kind = type("LosesReplyNow", (LosesReply,), {"error": error, "meanwhile": staticmethod(meanwhile)})
    return kind(lake.published.dataset, lake.storage, zone="published")


@pytest.mark.parametrize("error", [CommitFailedError("reply lost"), OSError("connection reset")])
def test_commit_whose_reply_was_lost_is_recognised(lake: Lake, error: Exception) -> None:
    table = losing(lake, error)
    result = rewrite(table, everything, as_one)
    assert result is not None and result.rows == 24
    assert positions(lake) == ROWS_PUBLISHED
    assert {file.path for file in result.added} == set(lake.published.snapshot().files)


def test_lost_reply_is_recognised_even_when_others_have_rewritten_the_new_files_since(lake: Lake) -> None:
    other = open_lake(Path(lake.storage.root)).published
    table = losing(lake, CommitFailedError("reply lost"), lambda: rewrite(other, everything, as_one))
    result = rewrite(table, everything, as_one)
    assert result is not None
    assert positions(lake) == ROWS_PUBLISHED
    assert {file.path for file in result.added} <= files_on_disk(table), "an older version still reads them"


def test_commit_that_arrives_after_it_was_given_up_keeps_its_files(lake: Lake) -> None:
    """On object storage a request may be on its way when its sender has given up."""
    storage = replace(lake.storage, local=False)
    sent: list[tuple[Table, dict[str, Any]]] = []

    class ArrivesLate(Table):
        def commit(self, **arguments: Any) -> None:
            sent.append((Table(self.dataset, storage, zone="published"), arguments))
            if len(sent) == 1:
                raise CommitFailedError("gave up")
            on_its_way, first = sent[0]
            on_its_way.commit(**first)
            super().commit(**arguments)

    result = rewrite(ArrivesLate(lake.published.dataset, storage, zone="published"), everything, as_one)
    assert result is not None and len(sent) == 2, "the second try is the same commit, and met the first one"
    assert {file.path for file in result.added} == set(lake_files(lake))
    assert positions(lake) == ROWS_PUBLISHED


def lake_files(lake: Lake) -> set[str]:
    lake.published.refresh()
    return set(lake.published.snapshot().files)


def test_storage_that_fails_before_the_commit_is_an_error_and_changes_nothing(lake: Lake) -> None:
    class Refuses(Table):
        def commit(self, **arguments: Any) -> None:
            raise OSError("no connection")

    table = Refuses(lake.published.dataset, lake.storage, zone="published")
    with pytest.raises(ServiceUnavailable):
        rewrite(table, everything, as_one)
    assert positions(lake) == ROWS_PUBLISHED


# -- killed, paused, two processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(("point", "left"), [("rewrite-staged", 1), ("rewrite-committed", 0)])
def test_killed_rewrite_leaves_the_rows_and_the_next_one_and_the_sweeper_mend_the_rest(
    lake: Lake, tmp_path: Path, point: str, left: int
) -> None:
    code = lake_process.run(tmp_path, "compact", lake.published.name, VITALAKE_CRASH_AT=point)
    assert code == lake_process.KILLED
    assert positions(lake) == ROWS_PUBLISHED
    compact(lake.published, min_files=2)
    assert positions(lake) == ROWS_PUBLISHED
    kept = files_on_disk(lake.published)
    assert sweep(open_lake(tmp_path), "vitals").deleted[lake.published.name] == 0, "not before the lease is over"
    assert sweep(open_lake(tmp_path), "vitals", lease_seconds=0).deleted[lake.published.name] == left
    assert len(files_on_disk(lake.published)) == len(kept) - left
    assert positions(lake) == ROWS_PUBLISHED


def test_two_processes_that_compact_at_once_do_not_double_rows(lake: Lake, tmp_path: Path) -> None:
    held = tmp_path / "held"
    first = lake_process.start(
        tmp_path, "compact", lake.published.name, VITALAKE_PAUSE_AT="rewrite-staged", VITALAKE_PAUSE_FILE=str(held)
    )
    until(held.exists, process=first)
    assert lake_process.run(tmp_path, "compact", lake.published.name) == 0
    held.unlink()
    assert first.wait(60) == 0
    assert positions(lake) == ROWS_PUBLISHED
    snapshot = lake.published.snapshot().files
    assert len(snapshot) == 2
    assert {p for p in files_on_disk(lake.published) if "rewrite." in p} == set(snapshot)


def test_rewrite_that_was_swept_while_it_slept_commits_nothing_of_what_was_swept(lake: Lake, tmp_path: Path) -> None:
    swept: list[int] = []

    def slow(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        rows = pa.concat_tables(batches)
        yield rows.slice(0, 10)
        if not swept:
            swept.append(sweep(open_lake(tmp_path), "vitals", lease_seconds=0).deleted[lake.published.name])
        yield rows.slice(10)

    assert rewrite(lake.published, everything, slow) is not None
    assert swept == [2], "both days of the first part"
    assert positions(lake) == ROWS_PUBLISHED


# -- vacuum ------------------------------------------------------------------------------------------------------


def test_vacuum_keeps_replaced_files_for_the_retention_and_staged_ones_for_ever(lake: Lake, tmp_path: Path) -> None:
    staged = write_staged(lake)
    compact(lake.published, min_files=2)
    assert vacuum(lake, lake.published) == 0
    assert vacuum(lake, lake.published, retention_hours=0) == 12
    assert files_on_disk(lake.published) == set(lake.published.snapshot().files) | staged
    assert positions(lake) == ROWS_PUBLISHED


def test_vacuum_deletes_what_the_log_has_forgotten_and_keeps_old_files_that_live(lake: Lake, tmp_path: Path) -> None:
    staged = write_staged(lake)
    compact(lake.published, min_files=2)
    write_spans(lake, 1, size=5, start=30)
    lake.published.refresh()
    lake.published.delta.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    lake.published.refresh()
    lake.published.delta.create_checkpoint()
    for path in Path(lake.published.storage.root).rglob("*.parquet"):
        os.utime(path, (0, 0))
    reopened = open_lake(tmp_path)
    live = set(reopened.published.snapshot().files)
    assert len(files_on_disk(reopened.published) - live - staged) == 12, "on disk, and not known to the log"
    assert vacuum(reopened, reopened.published) == 12
    assert files_on_disk(reopened.published) == live | staged
    assert positions(reopened) == [*ROWS_PUBLISHED, 30, 31, 32, 33]


def write_staged(lake: Lake) -> set[str]:
    """Stage a span that is not decided; return its published files."""
    from tests.unit.vitalake.lake.span_samples import staged_span

    return {file.path for file in staged_span(lake, 30, 35).files_of(lake.published.name)}
