"""Buckets and erasing: the same rows whatever their order, one patient in one file of many, and nothing left of one."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.vitalake.lake import lake_process
from tests.unit.vitalake.lake.span_samples import DAY, begin, observations, open_lake, positions, write_spans
from vitalake.errors import InputError
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance import compaction
from vitalake.lake.maintenance.compaction import compact, put_into_buckets
from vitalake.lake.maintenance.deletion import distinct_values, drop_rows, purge
from vitalake.lake.maintenance.vacuum import vacuum
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.buckets import (
    bucket_of,
    bucket_of_value,
    buckets_of_values,
    files_for,
    patient_column,
    suffix_of,
)
from vitalake.lake.tables.sorting import order_by, sort_by
from vitalake.lake.tables.table import StagedFile, Table

pytestmark = pytest.mark.slow

FOREVER = "9999-12-31"
ROWS_PUBLISHED = [position for position in range(30) if position % 5 != 4]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake of six spans over two days: twelve files, 24 rows of four patients."""
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 6, size=5, days=2)
    return lake


def files(table: Table) -> set[str]:
    table.refresh()
    return set(table.snapshot().files)


# -- names and hashes --------------------------------------------------------------------------------------------


def test_bucket_stands_at_the_end_of_the_name() -> None:
    assert bucket_of("day=2026-03-01/rewrite.3.0a-1-0.b7of64.parquet") == (7, 64)
    assert bucket_of("day=2026-03-01/rewrite.3.0a-1-0.parquet") is None
    assert bucket_of("day=2026-03-01/x.b7of64-0.parquet") is None
    assert suffix_of((7, 64)) == ".b7of64" and suffix_of(None) == ""


@given(st.lists(st.one_of(st.none(), st.text(), st.just(""))), st.integers(1, 4096), st.booleans(), st.booleans())
def test_bucket_of_a_row_is_that_of_its_value(texts: list[str | None], count: int, binary: bool, encode: bool) -> None:
    values: list[Any] = [text.encode() if binary and text is not None else text for text in texts]
    array = pa.array(values, pa.binary() if binary else pa.string())
    found = buckets_of_values(array.dictionary_encode() if encode else array, count)
    assert found.tolist() == [bucket_of_value(value, count) for value in values]
    assert buckets_of_values(pa.chunked_array([array, array]), count).tolist() == found.tolist() * 2


def test_identified_rows_are_found_by_subject_and_published_ones_by_pseudonym(lake: Lake) -> None:
    assert patient_column(lake.restricted.dataset) == "subject"
    assert patient_column(lake.published.dataset) == "patient_id"
    assert patient_column(lake.spans.table.dataset) is None


# -- sorting -----------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text("abé", max_size=2)), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
        )
    ),
    st.booleans(),
)
def test_rows_are_sorted_as_python_sorts_them(rows: list[tuple[str | None, int | None]], wide: bool) -> None:
    numbers = [n if wide or n is None else n % 1000 for _, n in rows]
    table = pa.table({"text": pa.array([t for t, _ in rows], pa.string()), "number": pa.array(numbers, pa.int64())})
    least = -(2**63)
    expected = sorted(
        range(len(rows)),
        key=lambda i: (
            rows[i][0] is not None,
            (rows[i][0] or "").encode(),
            least if (number := numbers[i]) is None else number,
        ),
    )
    assert order_by(table, ["text", "number"]).tolist() == expected
    assert sort_by(table, ["text", "number"])["number"].to_pylist() == [numbers[i] for i in expected]


# -- putting rows into buckets -----------------------------------------------------------------------------------


ROW = st.fixed_dictionaries(
    {
        "source_position": st.integers(0, 5),
        "patient_id": st.one_of(st.none(), st.sampled_from(["p", "q", "r", "ü"])),
        "code": st.one_of(st.none(), st.sampled_from(["8867-4", "59408-5"])),
        "value": st.one_of(st.none(), st.floats(allow_nan=False)),
        "effective_at": st.builds(
            lambda d, s: DAY + timedelta(days=d, seconds=s), st.integers(0, 2), st.integers(0, 9)
        ),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(ROW, min_size=1, max_size=12), min_size=1, max_size=4), st.integers(2, 5), st.integers(1, 40))
def test_any_rows_in_any_order_are_the_same_rows_in_buckets(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[dict[str, Any]]], count: int, memory: int
) -> None:
    table = open_lake(tmp_path_factory.mktemp("lake")).published
    before: Counter[tuple[Any, ...]] = Counter()
    for number, rows in enumerate(parts):
        given_rows = pa.Table.from_pylist(rows, schema=table.dataset.schema)
        before.update(as_tuples(given_rows))
        table.refresh()
        table.commit(add=table.stage(given_rows, stem=f"given-{number}"), transactions={"given": number})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compaction, "MEMORY_ROWS", memory)
        put_into_buckets(table, count, closed_before=FOREVER, target_rows=7)
        assert put_into_buckets(table, count, closed_before=FOREVER, target_rows=7).files_before in (0, *range(2, 99))
    table.refresh()
    assert Counter(as_tuples(table.scan())) == before
    for path in table.snapshot().files:
        bucket = bucket_of(path)
        assert bucket is not None
        found = table.storage.read_parquet(path, ["patient_id", "effective_at"]).to_pylist()
        assert {bucket_of_value(row["patient_id"], count) for row in found} == {bucket[0]}
        keys = [((row["patient_id"] or "").encode(), row["effective_at"]) for row in found]
        assert keys == sorted(keys)


def as_tuples(rows: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows.select(sorted(rows.schema.names)).to_pylist()]


def test_a_day_in_buckets_is_left_as_it_is_and_open_days_too(lake: Lake) -> None:
    done = put_into_buckets(lake.published, 4, closed_before="2026-03-02")
    assert (done.days, done.files_before, done.rows) == (1, 6, 12)
    assert put_into_buckets(lake.published, 4, closed_before="2026-03-02").days == 0
    named = [bucket_of(path) for path in files(lake.published)]
    assert named.count(None) == 6, "the second day is open"
    assert positions(lake) == ROWS_PUBLISHED


def test_another_number_of_buckets_takes_the_place_of_the_first(lake: Lake) -> None:
    put_into_buckets(lake.published, 4, closed_before=FOREVER)
    assert put_into_buckets(lake.published, 3, closed_before=FOREVER).days == 2
    assert {bucket[1] for path in files(lake.published) if (bucket := bucket_of(path))} == {3}
    assert positions(lake) == ROWS_PUBLISHED


def test_tables_without_patients_are_refused(lake: Lake) -> None:
    with pytest.raises(InputError, match="cannot be put"):
        put_into_buckets(lake.quarantine, 4, closed_before=FOREVER)
    with pytest.raises(InputError, match="cannot be put"):
        put_into_buckets(lake.published, 1, closed_before=FOREVER)


def test_files_for_gives_the_patients_bucket_and_all_files_without(lake: Lake) -> None:
    put_into_buckets(lake.published, 64, closed_before="2026-03-02")
    lake.published.refresh()
    found = files_for(lake.published.snapshot(), "pseudonym-1")
    assert len([file for file in found if file.day == "2026-03-01"]) == 1
    assert len([file for file in found if file.day == "2026-03-02"]) == 6


def test_compaction_keeps_buckets_apart_and_puts_enough_loose_rows_into_them(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    table = lake.published
    table.dataset = replace(table.dataset, buckets=2)
    wanted = [*sorted({str((bucket_of_value(f"pseudonym-{i}", 2), 2)) for i in range(4)}), "None"]
    compact(table, min_files=2, buckets_before=FOREVER)
    assert {bucket_of(path) for path in files(table)} == {None}, "few rows are merged only"
    monkeypatch.setattr(compaction, "ROWS_A_BUCKET", 2)
    compact(table, min_files=2, buckets_before="2026-03-02")
    assert sorted(map(str, map(bucket_of, files(table)))) == wanted
    for start in (30, 60):
        write_spans(lake, 6, size=5, days=2, start=start)
        compact(table, min_files=2, buckets_before="2026-03-02")
    assert sorted(map(str, map(bucket_of, files(table)))) == wanted
    assert positions(lake) == [position for position in range(90) if position % 5 != 4]


def test_neither_log_nor_footer_says_anything_of_patients(lake: Lake) -> None:
    put_into_buckets(lake.published, 4, closed_before=FOREVER)
    for path in files(lake.published):
        with lake.published.storage.open(path) as file:
            group = file.metadata.row_group(0)
            column = group.column(file.schema_arrow.names.index("patient_id"))
            assert not column.is_stats_set
            assert not column.has_column_index and not column.has_offset_index
            assert getattr(column, "bloom_filter_offset", None) is None
        raw = Path(lake.published.storage.root, path).read_bytes()
        assert b"pseudonym" not in raw[-file.metadata.serialized_size - 8 :]
    log = b"".join(path.read_bytes() for path in Path(lake.published.storage.root, "_delta_log").iterdir())
    assert b"pseudonym" not in log and b"minValues" not in log


# -- erasing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [0, 8])
def test_dropped_rows_are_gone_and_all_others_stay(lake: Lake, buckets: int) -> None:
    if buckets:
        put_into_buckets(lake.published, buckets, closed_before=FOREVER)
    done = drop_rows(lake.published, "patient_id", "pseudonym-1")
    assert (done.rows, done.days) == (6, 2)
    assert 0 < done.bytes_searched < done.bytes_touched
    assert positions(lake) == [position for position in ROWS_PUBLISHED if position % 5 != 1]
    assert all(bool(bucket_of(path)) == bool(buckets) for path in files(lake.published))
    assert drop_rows(lake.published, "patient_id", "pseudonym-1").rows == 0
    assert [f.kind for f in verify(open_lake(Path(lake.storage.root)))] == [], "the books say what was dropped"


def test_purged_files_are_gone_and_with_them_older_versions(lake: Lake) -> None:
    version = lake.published.delta.version()
    drop_rows(lake.published, "patient_id", "pseudonym-1")
    assert found_in(lake, b"pseudonym-1") > 0
    assert "pseudonym-1" in distinct_values(lake.published, "patient_id")
    assert purge(lake.published, "patient_id", "pseudonym-1") == 6
    assert found_in(lake, b"pseudonym-1") == 0
    assert distinct_values(lake.published, "patient_id") == {"pseudonym-0", "pseudonym-2", "pseudonym-3"}
    assert positions(lake) == [position for position in ROWS_PUBLISHED if position % 5 != 1]
    lake.published.delta.load_as_version(version)
    with pytest.raises(Exception, match=r"(?i)no such file|not found"):
        lake.published.delta.to_pyarrow_table()
    lake.published.refresh()
    assert purge(lake.published, "patient_id", "pseudonym-1") == 0
    assert vacuum(lake, lake.published, retention_hours=0) == 6, "of files that are gone it says so, and goes on"
    assert verify(open_lake(Path(lake.storage.root))) == []


def found_in(lake: Lake, text: bytes) -> int:
    """Return in how many files of the published zone a text is, also where it is compressed."""
    count = 0
    for path in Path(lake.published.storage.root).rglob("*"):
        if path.suffix == ".parquet":
            rows = pa.parquet.ParquetFile(path).read(["patient_id"])["patient_id"].cast(pa.string()).to_pylist()
            count += text.decode() in rows or text in path.read_bytes()
        elif path.is_file():
            count += text in path.read_bytes()
    return count


def test_a_pseudonym_that_no_row_has_does_not_stay_in_a_dictionary(lake: Lake, tmp_path: Path) -> None:
    """As files of before have them, and of other writers."""
    table = lake.published
    rows = observations(90, 93).set_column(
        table.dataset.schema.names.index("patient_id"), "patient_id", pa.array(["a", "gone", "b"]).dictionary_encode()
    )
    path = "day=2026-03-01/foreign.parquet"
    pa.parquet.write_table(rows.take(pa.array([0, 2])), f"{table.storage.root}/{path}", store_schema=False)
    size = Path(table.storage.root, path).stat().st_size
    table.refresh()
    table.commit(add=[StagedFile(table.name, path, size, 2, "2026-03-01")], transactions={"foreign": 1})
    done = drop_rows(table, "patient_id", "gone")
    assert (done.rows, done.files_rewritten) == (0, 1)
    assert "gone" not in {v for f in files(table) for v in in_dictionary(table, f)}


def in_dictionary(table: Table, path: str) -> list[str]:
    column = pa.parquet.read_table(f"{table.storage.root}/{path}", read_dictionary=["patient_id"])["patient_id"]
    return [value for chunk in column.chunks for value in chunk.dictionary.to_pylist()]


def test_staged_files_of_the_dead_are_purged_too(lake: Lake) -> None:
    from tests.unit.vitalake.lake.span_samples import staged_span

    staged = {file.path for file in staged_span(lake, 30, 35).files_of(lake.published.name)}
    assert purge(lake.published, "patient_id", "pseudonym-1") == 1
    assert not staged & set(lake.published.storage.files())


def test_killed_drop_goes_on_with_the_days_that_are_left(lake: Lake, tmp_path: Path) -> None:
    code = lake_process.run(tmp_path, "drop", lake.published.name, "pseudonym-1", VITALAKE_CRASH_AT="dropped-day")
    assert code == lake_process.KILLED
    done = drop_rows(lake.published, "patient_id", "pseudonym-1")
    assert (done.rows, done.days) == (3, 1)
    assert positions(lake) == [position for position in ROWS_PUBLISHED if position % 5 != 1]
    assert verify(open_lake(tmp_path)) == []


@pytest.mark.parametrize("point", ["rewrite-staged", "rewrite-committed"])
def test_killed_bucketing_goes_on(lake: Lake, tmp_path: Path, point: str) -> None:
    assert (
        lake_process.run(tmp_path, "bucket", lake.published.name, "4", VITALAKE_CRASH_AT=point) == lake_process.KILLED
    )
    assert positions(lake) == ROWS_PUBLISHED
    done = put_into_buckets(lake.published, 4, closed_before=FOREVER)
    assert done.days == (2 if point == "rewrite-staged" else 1)
    assert positions(lake) == ROWS_PUBLISHED


def test_dropping_goes_on_beside_a_stream_and_beside_bucketing(lake: Lake, tmp_path: Path) -> None:
    stream = lake_process.start(tmp_path, "stream", "70")
    bucketing = lake_process.start(tmp_path, "bucket", lake.published.name, "4")
    rounds = 0
    while stream.poll() is None or bucketing.poll() is None or rounds == 0:
        drop_rows(lake.published, "patient_id", "pseudonym-1")
        rounds += 1
    assert stream.wait(60) == 0 and bucketing.wait(60) == 0
    drop_rows(lake.published, "patient_id", "pseudonym-1")
    streamed = [position for position in range(30, 70) if (position - 30) % 4 != 3]
    expected = [position for position in ROWS_PUBLISHED + streamed if position % 5 != 1]
    assert positions(lake) == expected
    assert verify(open_lake(tmp_path)) == []


def test_one_patient_of_many_rows_is_dropped_by_reading_a_fraction(tmp_path: Path) -> None:
    table = open_lake(tmp_path).published
    rng, count = np.random.default_rng(0), 200_000
    tokens = pa.array([f"token-{i:05}" for i in range(1_000)])
    columns = {
        "patient_id": pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 1_000, count), pa.int32()), tokens),
        "observation_id": pa.array([rng.bytes(16) for _ in range(count)]),
        "effective_at": pa.array(rng.integers(0, 86_400_000_000, count)).cast(pa.timestamp("us", "UTC")),
    }
    rows = pa.table({f.name: columns.get(f.name, pa.nulls(count, f.type)) for f in table.dataset.schema})
    table.commit(add=table.stage(rows, stem="x"), transactions={"x": 1})
    table.refresh()
    put_into_buckets(table, 64, closed_before=FOREVER)
    whole = sum(file.size for file in table.snapshot().files.values())
    began = time.monotonic()
    done = drop_rows(table, "patient_id", "token-00007")
    print(f"{done.bytes_touched:,} of {whole:,} bytes, {time.monotonic() - began:.2f} s")
    assert done.rows > 100 and done.files_rewritten == done.files_searched == 1
    assert done.bytes_touched < whole / 20
