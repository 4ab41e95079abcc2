"""Tables: files are whole, commits are never blind, and a lost reply is no loss."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from tests.unit.vitalake.lake.span_samples import observations, open_lake
from vitalake.errors import InputError, ServiceUnavailable
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import Table


def open_table(folder: Path) -> Table:
    return Table(load_dataset("observation"), open_storage(str(folder), {}), zone="published")


def append(table: Table, first: int, end: int, *, app: str = "app") -> bool:
    """Append rows as a writer does: if the application is at ``first``, to ``end``."""
    files = table.stage(observations(first, end), stem=f"{app}-{first}-{end}")

    def ready() -> Literal["commit", "done"]:
        at = table.transaction(app) or 0
        if at == end:
            return "done"
        if at != first:
            raise LookupError
        return "commit"

    return table.commit_when(ready, add=files, transactions={app: end})


def rows(folder: Path) -> list[int]:
    table = DeltaTable(str(folder / "published" / "observation")).to_pyarrow_table()
    return sorted(table["source_position"].to_pylist())


class FailsOnce(Table):
    """A table whose storage fails once, before or after the real commit."""

    def __init__(self, folder: Path, error: Exception, *, after: bool) -> None:
        super().__init__(load_dataset("observation"), open_storage(str(folder), {}), zone="published")
        self.error: Exception | None = error
        self.after = after

    def commit(self, **arguments: Any) -> None:
        error, self.error = self.error, None
        if error and not self.after:
            raise error
        super().commit(**arguments)
        if error:
            raise error


def test_staged_rows_are_seen_by_nobody_until_they_are_committed(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    files = table.stage(observations(0, 6, days=3), stem="s")
    assert [(file.day, file.rows) for file in files] == [(f"2026-03-0{day}", 2) for day in (1, 2, 3)]
    assert rows(tmp_path) == []
    table.commit(add=files, transactions={"app": 6})
    assert rows(tmp_path) == list(range(6))


def test_rows_without_a_date_lie_in_a_partition_of_their_own_and_are_not_lost(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    schema = table.dataset.schema
    dated = observations(0, 4, days=2)
    undated = (
        observations(4, 6)
        .drop_columns(["effective_at"])
        .append_column("effective_at", pa.nulls(2, pa.timestamp("us", "UTC")))
    )
    for number, part in enumerate(
        (pa.concat_tables([dated, undated.select(schema.names)]), undated.select(schema.names))
    ):
        files = table.stage(part.cast(schema), stem=f"s{number}")
        assert sum(file.rows for file in files) == part.num_rows
        table.commit(add=files, transactions={"app": number})
        table.refresh()
    assert rows(tmp_path) == [0, 1, 2, 3, 4, 4, 5, 5]
    assert {file.day for file in table.snapshot().files.values()} == {"2026-03-01", "2026-03-02", None}
    assert table.scan().num_rows == 8


def test_two_commits_of_one_position_from_one_snapshot_are_one(tmp_path: Path) -> None:
    first, second = open_table(tmp_path), open_table(tmp_path)
    staged = [table.stage(observations(0, 3), stem=f"s{i}") for i, table in enumerate((first, second))]
    first.commit(add=staged[0], transactions={"app": 3})
    with pytest.raises(CommitFailedError):
        second.commit(add=staged[1], transactions={"app": 3})
    assert rows(tmp_path) == [0, 1, 2]


def test_stale_object_looks_again_and_finds_that_it_is_done(tmp_path: Path) -> None:
    first, second = open_table(tmp_path), open_table(tmp_path)
    assert append(first, 0, 3) is True
    assert append(second, 0, 3) is False
    assert rows(tmp_path) == [0, 1, 2]


def test_damage_of_a_checkpoint_is_found_before_anything_is_committed_after_it(tmp_path: Path) -> None:
    """No entry had its digest until the next commit: other files were read, or none."""
    table = open_table(tmp_path)
    log, count = Path(table.storage.root, "_delta_log"), 0
    while not (found := list(log.glob("*.checkpoint.parquet"))):
        append(table, count, count := count + 1)
    whole, random = found[0].read_bytes(), Random(1)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        found[0].write_bytes(flipped)
        with pytest.raises(Damaged, match="The log of a table is damaged"):
            open_table(tmp_path)
    found[0].write_bytes(whole)
    assert rows(tmp_path) == list(range(count))
    append(open_table(tmp_path), count, count + 1)


def test_checkpoint_is_recorded_though_others_have_committed_meanwhile(tmp_path: Path) -> None:
    """Its digest was that of the newest version's checkpoint only, and the one try to record it was lost in a race."""
    table, other = open_table(tmp_path), open_table(tmp_path)
    for number in range(3):
        append(other, number, number + 1, app="other")
    table.delta.create_checkpoint()  # of the version that this object has
    checkpoint = Path(table.storage.root, "_delta_log", "00000000000000000000.checkpoint.parquet")
    append(table, 0, 1)
    actions = pq.read_table(checkpoint)
    pq.write_table(actions.slice(0, actions.num_rows - 1), checkpoint)
    with pytest.raises(Damaged, match="not what was written"):
        open_table(tmp_path)


def test_writers_of_other_positions_do_not_stop_each_other(tmp_path: Path) -> None:
    first, second = open_table(tmp_path), open_table(tmp_path)
    for step in range(0, 9, 3):
        assert append(first, step, step + 3, app="a")
        assert append(second, step, step + 3, app="b")
    assert rows(tmp_path) == sorted(2 * list(range(9)))


def test_reply_lost_after_the_commit_is_not_committed_again(tmp_path: Path) -> None:
    table = FailsOnce(tmp_path, CommitFailedError("lost"), after=True)
    assert append(table, 0, 3) is False
    assert append(table, 3, 5) is True
    assert rows(tmp_path) == list(range(5))


def test_commit_that_failed_before_is_tried_again(tmp_path: Path) -> None:
    assert append(FailsOnce(tmp_path, CommitFailedError("race"), after=False), 0, 3) is True
    assert rows(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("error", [OSError("no connection"), DeltaError("no connection")])
def test_storage_that_fails_is_told_and_the_same_call_can_be_repeated(
    tmp_path: Path, error: Exception, after: bool
) -> None:
    table = FailsOnce(tmp_path, error, after=after)
    with pytest.raises(ServiceUnavailable, match="published/observation") as caught:
        append(table, 0, 3)
    assert "no connection" not in str(caught.value)
    append(table, 0, 3)
    assert rows(tmp_path) == [0, 1, 2]


def test_file_written_again_is_never_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_table(tmp_path)
    files = table.stage(observations(0, 3), stem="s")
    table.commit(add=files, transactions={"app": 3})
    monkeypatch.setattr("os.fsync", _full)
    with pytest.raises(OSError, match="full"):
        table.stage(observations(0, 3), stem="s")
    assert rows(tmp_path) == [0, 1, 2]


def _full(_: int) -> None:
    raise OSError(28, "full")


def test_table_of_other_columns_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "published" / "observation"
    DeltaTable.create(str(place), schema=pa.schema([pa.field("x", pa.int64())]))
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match="columns"):
        open_table(tmp_path)
    assert sorted(place.rglob("*")) == before


def test_looking_for_a_lake_makes_none(tmp_path: Path) -> None:
    lake = open_lake(tmp_path / "lake")
    assert not lake.storage.holds_table("spans")
    assert list(tmp_path.iterdir()) == []
    assert lake.spans.days() == []
    assert lake.storage.holds_table("spans")


@pytest.mark.parametrize(("zone", "told"), [("published", True), ("restricted", True), ("quarantine", False)])
def test_a_table_tells_raw_readers_that_it_holds_every_version(tmp_path: Path, zone: str, told: bool) -> None:
    table = Table(load_dataset("observation"), open_storage(str(tmp_path), {}), zone=zone)
    append(table, 0, 3)
    said = DeltaTable(table.storage.uri).metadata().description
    assert ("vitalake lake view observation" in (said or "")) is told
