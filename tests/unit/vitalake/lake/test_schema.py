"""Schema over time: tables of an older or a newer release open, and are brought to the dataset, or not."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError

from governance.belonging import admit
from tests.unit.governance.query.query_samples import publish
from tests.unit.vitalake.lake.span_samples import observations
from vitalake.cli.app import main
from vitalake.errors import InputError, ServiceUnavailable
from vitalake.lake.commits.format import FORMAT, Format, write_format
from vitalake.lake.datasets.dataset import TYPES, Column, Dataset
from vitalake.lake.datasets.declared import dataset_names, load_dataset
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.verify import check_files
from vitalake.lake.tables.schema import Change, apply, compare, conform, fits, new_schema
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import StagedFile, Table
from vitalake.settings import load_settings

COLUMNS = {"id": "string", "version": "int64", "size": "int16", "seen_at": "timestamp"}


def dataset(columns: dict[str, str] | None = None, *, revision: int = 1, **changes: Any) -> Dataset:
    """Return a dataset with columns by name and type, all of one class."""
    declared = tuple(Column(name, TYPES[kind], "measurement", "") for name, kind in (columns or COLUMNS).items())
    return Dataset(**{"name": "things", "kind": "record", "columns": declared, "key": ("id", "version"),
                      "day_of": "seen_at", "revision": revision, **changes})  # fmt: skip


OLD = dataset()
NEW = dataset({**COLUMNS, "size": "int32", "note": "string"}, revision=2)


def open_table(folder: Path, declared: Dataset = NEW) -> Table:
    return Table(declared, open_storage(str(folder), {}), zone="published")


def make_old(folder: Path, declared: Dataset = OLD) -> None:
    """Make a table as releases did that wrote nothing down about it."""
    DeltaTable.create(
        str(folder / "published" / "things"),
        schema=Schema.from_arrow(declared.table_schema),
        partition_by=["day"] if declared.day_of else None,
        configuration={"delta.dataSkippingNumIndexedCols": "0", "delta.logRetentionDuration": "interval 2 hours"},
    )


def rows(first: int, count: int = 3, **columns: pa.Array) -> pa.Table:
    """Return rows of a thing each, all of one day."""
    numbers = range(first, first + count)
    known = {
        "id": pa.array([f"t{n}" for n in numbers]),
        "version": pa.array([1] * count, pa.int64()),
        "size": pa.array(numbers, pa.int16()),
        "seen_at": pa.array([1_000_000 + n for n in numbers], pa.timestamp("us", "UTC")),
    }
    return pa.table({**known, **columns})


def append_as_before(folder: Path, part: pa.Table, name: str) -> None:
    """Append rows as a lane of the old release does: its columns, and an object that has seen nothing newer."""
    table = open_table(folder, OLD)
    stem = f"day=1970-01-01/{name}"
    path, size = table.storage.write_parquet(stem, part)
    table.commit(add=[StagedFile(table.name, path, size, part.num_rows, "1970-01-01")], transactions={name: 1})


def append(table: Table, part: pa.Table, name: str) -> None:
    """Append rows as any lane does."""
    table.commit_when(lambda: "commit", add=table.stage(part, stem=name), transactions={name: 1})
    table.refresh()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with a table of an older release, with rows."""
    make_old(tmp_path)
    append_as_before(tmp_path, rows(0), "old")
    return tmp_path


def state_of(folder: Path) -> str:
    delta = DeltaTable(str(folder / "published" / "things"))
    return f"{delta.version()} {delta.schema().to_json()}"


# -- opening, reading and writing


def test_a_table_of_an_older_release_is_read_as_it_is_and_nothing_is_written_by_looking(old: Path) -> None:
    before = state_of(old)
    table = open_table(old)
    found = table.scan()
    assert found.schema.names == [*COLUMNS, "note"]
    assert found["size"].type == pa.int32()
    assert found["size"].to_pylist() == [0, 1, 2]
    assert found["note"].to_pylist() == [None] * 3
    assert table.scan(columns=["note", "id"]).schema.names == ["note", "id"]
    assert list(check_files(table, table.snapshot())) == []
    assert state_of(old) == before


def test_the_first_write_brings_the_table_to_the_dataset(old: Path) -> None:
    table = open_table(old)
    assert [(c.kind, c.column) for c in table.state.pending if c.kind != "record"] == [
        ("widen", "size"),
        ("add", "note"),
    ]
    big = rows(3, size=pa.array([70_000, 4, 5], pa.int32()), note=pa.array(["a", None, "c"]))
    append(table, big, "new")
    assert table.state.pending == ()
    assert table.state.revision == 2
    assert table.scan().sort_by("id")["size"].to_pylist() == [0, 1, 2, 70_000, 4, 5]
    assert list(check_files(table, table.snapshot())) == []
    # any other engine reads it by the log
    foreign = DeltaTable(str(old / "published" / "things")).to_pyarrow_table().sort_by("id")
    assert foreign["size"].to_pylist() == [0, 1, 2, 70_000, 4, 5]
    assert foreign["note"].to_pylist() == [None, None, None, "a", None, "c"]


def test_the_change_is_one_commit_that_touches_no_file(old: Path) -> None:
    table = open_table(old)
    files, version = table.snapshot().files, table.delta.version()
    table.prepare()
    table.refresh()
    assert table.delta.version() == version + 1
    assert table.snapshot().files == files
    table.prepare()
    table.refresh()
    assert table.delta.version() == version + 1


def test_a_lane_of_the_old_release_goes_on_beside_it(old: Path) -> None:
    lane = open_table(old, OLD)
    append(open_table(old), rows(3, size=pa.array([1, 2, 3], pa.int32()), note=pa.array(["x"] * 3)), "new")
    append(lane, rows(6), "old-2")  # its object is older than the change
    append_as_before(old, rows(9), "old-3")
    table = open_table(old)
    assert table.scan().num_rows == 12
    assert list(check_files(table, table.snapshot())) == []


def test_an_older_release_opens_a_table_of_a_newer_one_and_its_compaction_loses_nothing(old: Path) -> None:
    append(open_table(old), rows(3, size=pa.array([70_000, 2, 3], pa.int32()), note=pa.array(["x"] * 3)), "new")
    older = open_table(old, OLD)
    assert not older.state.pending
    assert not older.state.refused
    assert older.scan().schema.names == list(COLUMNS)
    append(older, rows(6), "old-2")
    assert compact(older, min_files=2).files_after == 1
    table = open_table(old)
    assert sorted(table.scan()["note"].to_pylist(), key=str) == [None] * 6 + ["x"] * 3
    assert 70_000 in table.scan()["size"].to_pylist()
    assert list(check_files(table, table.snapshot())) == []


def test_compaction_writes_old_rows_in_the_new_columns(old: Path) -> None:
    append_as_before(old, rows(3), "old-2")
    table = open_table(old)
    assert compact(table, min_files=2).files_after == 1
    (path,) = table.snapshot().files
    assert table.storage.open(path).schema_arrow.names == [*COLUMNS, "note"]
    assert table.scan().sort_by("id")["size"].to_pylist() == [0, 1, 2, 3, 4, 5]


def test_a_file_without_a_column_that_was_there_from_the_start_is_found(old: Path) -> None:
    append_as_before(old, rows(3).drop_columns(["size"]), "torn")
    table = open_table(old)
    assert [finding.kind for finding in check_files(table, table.snapshot())] == ["schema-differs"]


# -- what is refused


REFUSED = {
    "dropped": (
        dataset({k: v for k, v in COLUMNS.items() if k != "size"}, revision=2),
        "size is not a column of the dataset",
    ),
    "renamed": (
        dataset({("extent" if k == "size" else k): v for k, v in COLUMNS.items()}, revision=2),
        "size is not a column of the dataset",
    ),
    "narrowed": (dataset({**COLUMNS, "version": "int32"}, revision=2), "version is int64 and not int32"),
    "of another kind": (dataset({**COLUMNS, "size": "string"}, revision=2), "size is int16 and not string"),
    "date to timestamp": (dataset({**COLUMNS, "id": "timestamp"}, revision=2), "id is string and not timestamp"),
    "unpartitioned": (dataset(revision=2, day_of=None), "its partition column differs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_in_place_is_refused_with_the_way_to_do_it(old: Path, case: str) -> None:
    declared, why = REFUSED[case]
    before = state_of(old)
    with pytest.raises(InputError, match=why) as caught:
        open_table(old, declared)
    assert "dataset of another name" in caught.value.remedy
    assert state_of(old) == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": ("version", "id")}, "its key differs"),
        ({"key": ("id",)}, "its key differs"),
        ({"day_of": "other_at"}, "its day comes from another column"),
    ],
)
def test_a_changed_key_or_day_is_refused_once_it_was_recorded(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    columns = {**COLUMNS, "other_at": "timestamp"}
    open_table(tmp_path, dataset(columns))
    with pytest.raises(InputError, match=why):
        open_table(tmp_path, dataset(columns, revision=2, **change))


def test_a_day_has_no_moment_so_date_to_timestamp_is_refused() -> None:
    found = new_schema(dataset({**COLUMNS, "born": "date"}))
    state = compare(dataset({**COLUMNS, "born": "timestamp"}, revision=2), found, ["day"], 1)
    assert state.refused == ("born is date32[day] and not timestamp[us, tz=UTC]",)
    assert state.pending == ()


# -- data classes


def _classed(data_class: str) -> Dataset:
    return replace(
        OLD, columns=tuple(replace(c, data_class=data_class) if c.name == "size" else c for c in OLD.columns)
    )


def test_a_changed_class_is_said_until_the_rows_are_published_again(tmp_path: Path) -> None:
    append(open_table(tmp_path, OLD), rows(0), "a")
    table = open_table(tmp_path, _classed("free-text"))
    assert table.state.republish == ("size",)
    append(table, rows(3), "b")  # new rows are published under the new class already
    assert table.state.republish == ("size",)
    table.prepare(republished=True)
    assert open_table(tmp_path, _classed("free-text")).state.republish == ()
    version = table.delta.version()
    table.prepare(republished=True)
    table.refresh()
    assert table.delta.version() == version + 1  # once only
    assert open_table(tmp_path, OLD).state.republish == ("size",)


def test_classes_are_recorded_for_a_table_of_before(old: Path) -> None:
    table = open_table(old, OLD)
    assert {change.kind for change in table.state.pending} == {"record"}
    table.prepare()
    assert open_table(old, OLD).state.pending == ()
    assert open_table(old, _classed("free-text")).state.republish == ("size",)


# -- at once, and killed


def _apply_at_once(folder: str, barrier: Any, number: int) -> None:
    table = open_table(Path(folder), NEW)
    barrier.wait()
    for step in range(5):
        part = rows(100 * number + 3 * step, size=pa.array([1, 2, 3], pa.int32()), note=pa.array(["n"] * 3))
        append(table, part, f"p{number}-{step}")


@pytest.mark.slow
def test_processes_that_bring_the_table_at_once_make_one_change_and_lose_no_row(old: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_apply_at_once, args=(str(old), barrier, n)) for n in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    table = open_table(old)
    assert table.scan().num_rows == 3 + 3 * 5 * 3
    log = sorted((old / "published" / "things" / "_delta_log").glob("*.json"))
    assert sum('"metaData"' in path.read_text() for path in log) == 2  # made, and changed once


def _die(folder: str, point: str) -> None:
    os.environ["VITALAKE_CRASH_AT"] = point
    open_table(Path(folder)).prepare()


@pytest.mark.parametrize("point", ["schema", "schema-applied"])
def test_killed_at_the_change_leaves_a_table_of_before_or_after(old: Path, point: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die, args=(str(old), point))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    table = open_table(old)
    assert bool(table.state.pending) == (point == "schema")
    append(table, rows(3, size=pa.array([1, 2, 3], pa.int32()), note=pa.array(["n"] * 3)), "after")
    assert table.scan().num_rows == 6


def test_storage_that_fails_is_told_and_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, before = open_table(old), state_of(old)
    monkeypatch.setattr("vitalake.lake.tables.schema.write_deltalake", _full)
    with pytest.raises(ServiceUnavailable, match="Disk is full"):
        table.prepare()
    assert state_of(old) == before


def _full(*_: Any, **__: Any) -> None:
    raise OSError(28, "full")


def test_what_always_loses_the_race_gives_up(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: Any, **__: Any) -> None:
        raise CommitFailedError("lost")

    monkeypatch.setattr("vitalake.lake.tables.schema.write_deltalake", lose)
    with pytest.raises(ServiceUnavailable, match="always come first"):
        open_table(old).prepare()


# -- pieces


def test_rows_take_the_columns_they_are_read_in_and_dictionaries_stay() -> None:
    part = pa.table({"a": pa.array(["x", "y"]).dictionary_encode(), "b": pa.array([1, 2], pa.int16())})
    wanted = pa.schema({"c": pa.float64(), "b": pa.int64(), "a": pa.string()})
    found = conform(part, wanted)
    assert found.schema.names == ["c", "b", "a"]
    assert found["b"].type == pa.int64()
    assert pa.types.is_dictionary(found["a"].type)
    assert found["c"].to_pylist() == [None, None]


def test_a_file_of_a_column_the_table_never_had_does_not_fit(tmp_path: Path) -> None:
    state = open_table(tmp_path).state
    assert fits(state, NEW.schema)
    assert not fits(state, NEW.schema.append(pa.field("x", pa.int64())))
    assert not fits(state, OLD.schema)  # made by the new release: all its files have all columns


def test_changes_name_column_and_types(old: Path) -> None:
    pending = {change for change in open_table(old).state.pending if change.kind != "record"}
    assert pending == {Change("widen", "size", "int16 to int32"), Change("add", "note", "string")}


def test_what_is_applied_is_what_was_pending(old: Path) -> None:
    delta = DeltaTable(str(old / "published" / "things"))
    state = open_table(old).state
    assert apply(NEW, delta, where="things") == state.pending
    assert apply(NEW, delta, where="things") == ()


# -- the command, and the datasets of this release


def observation_of_before() -> Dataset:
    """Return observation as the first release had it."""
    declared = load_dataset("observation")
    return replace(declared, columns=tuple(c for c in declared.columns if c.name != "attribution"), revision=1)


@pytest.fixture
def first_home(home: Path) -> Path:
    """A home of this format whose observations have the columns of the first release."""
    Table(load_dataset("spans"), open_storage(str(home / "lake"), {}), zone="")
    write_format(open_storage(str(home / "lake"), {}), Format(FORMAT))
    before = observation_of_before()
    place = home / "lake" / "published" / "observation"
    DeltaTable.create(str(place), schema=Schema.from_arrow(before.table_schema), partition_by=["day"])
    table = Table(before, open_storage(str(home / "lake"), {}), zone="published")
    part = observations(0, 3).select(before.schema.names)
    stem = "day=2026-03-01/old"
    path, size = table.storage.write_parquet(stem, part)
    table.commit(add=[StagedFile(table.name, path, size, 3, "2026-03-01")], transactions={"old": 3})
    return home


def test_the_command_shows_and_applies(first_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lake", "schema", "published/observation", "--home", str(first_home)]
    assert main(arguments) == 0
    assert "to add: attribution (int64)" in capsys.readouterr().out
    assert main([*arguments, "--apply"]) == 0
    assert "added: attribution (int64)" in capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == "published/observation: up to date\n"
    assert main(["lake", "schema", "nothing", "--home", str(first_home)]) == 11
    publish(first_home / "lake", "observation", [{"observation_id": b"0" * 16, "version": 1, "attribution": 7}])
    assert main(["lake", "verify", "--home", str(first_home)]) == 13  # rows without spans; the schema is sound
    assert "schema-differs" not in capsys.readouterr().out


def test_the_command_says_what_is_to_be_published_again_and_what_cannot_be(
    first_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["lake", "schema", "published/observation", "--home", str(first_home)]
    assert main([*arguments, "--apply"]) == 0
    declared = load_dataset("observation")
    columns = tuple(replace(c, data_class="measurement") if c.name == "unit" else c for c in declared.columns)
    known = {"observation": replace(declared, columns=columns)}
    monkeypatch.setattr("vitalake.lake.commits.lake.load_dataset", lambda name: known.get(name) or load_dataset(name))
    capsys.readouterr()
    assert main(arguments) == 0
    assert "of another data class: unit; run 'vitalake lake rewrite --republish observation'" in capsys.readouterr().out
    known["observation"] = replace(declared, revision=1)
    assert main(arguments) == 0
    assert "made by a newer release" in capsys.readouterr().out
    known["observation"] = replace(declared, columns=columns[:-1])
    assert main(arguments) == 11
    assert f"REFUSED: {columns[-1].name} is not a column of the dataset" in capsys.readouterr().out


def test_the_command_ends_with_11_for_a_table_that_cannot_be_brought(
    first_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    admit(load_settings(first_home))  # the lake knows its home
    DeltaTable.create(str(first_home / "lake" / "published" / "patient"), schema=pa.schema({"x": pa.int64()}))
    assert main(["lake", "schema", "--json", "--apply", "--home", str(first_home)]) == 11
    out = capsys.readouterr().out
    assert '"refused":["x is not a column of the dataset"]' in out
    assert '"applied":true' in out


GOLDEN = Path(__file__).parents[3] / "golden" / "schema.txt"


def released() -> str:
    """Return every dataset with its revision, columns, types and classes."""
    lines = []
    for name in dataset_names():
        declared = load_dataset(name)
        lines.append(f"{name} {declared.revision} key {','.join(declared.key)} day {declared.day_of}")
        lines += [f"  {c.name} {c.type} {c.data_class}" for c in declared.columns]
    return "\n".join(lines) + "\n"


def test_columns_change_with_a_new_revision_only() -> None:
    """Who changes a dataset counts its revision up, and runs ``python -m tests.unit.vitalake.lake.test_schema``."""
    assert released() == GOLDEN.read_text()


def test_parquet_itself_reads_what_was_written(old: Path) -> None:
    table = open_table(old)
    (path,) = table.snapshot().files
    assert pq.read_schema(str(old / "published" / "things" / path)).names == list(COLUMNS)


if __name__ == "__main__":
    GOLDEN.write_text(released())
