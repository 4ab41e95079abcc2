"""What is written holds the values of its rows and no others, whatever a dictionary remembers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vitalake.lake.span_samples import observations, open_lake
from vitalake.lake.tables.dictionaries import without_unused


@given(st.lists(st.one_of(st.none(), st.sampled_from("abcdef"))), st.integers(0, 6), st.booleans())
def test_rows_stay_equal_and_no_value_is_left_that_none_has(texts: list[str | None], cut: int, encode: bool) -> None:
    column = pa.array(["never", *texts], pa.string())
    rows = pa.table({"text": (column.dictionary_encode() if encode else column).slice(1 + min(cut, len(texts)))})
    pruned = without_unused(rows)
    assert pruned["text"].to_pylist() == rows["text"].to_pylist()
    for chunk in pruned["text"].chunks if encode else ():
        assert sorted(chunk.dictionary.to_pylist()) == sorted({text for text in chunk.to_pylist() if text is not None})


def test_rows_without_a_chunk_are_good() -> None:
    rows = pa.table({"text": pa.chunked_array([], pa.dictionary(pa.int32(), pa.string()))})
    assert without_unused(rows).num_rows == 0


@pytest.mark.parametrize("keep", [slice(0, 5), slice(5, 9)])
def test_no_file_holds_a_pseudonym_of_rows_that_were_left_out(tmp_path: Path, keep: slice) -> None:
    table = open_lake(tmp_path).published
    rows = observations(0, 10, days=2)
    place = rows.schema.get_field_index("patient_id")
    rows = rows.set_column(place, "patient_id", pa.array([f"token-{i}" for i in range(10)]).dictionary_encode())
    wanted = {f"token-{i}" for i in range(10)[keep]}
    for file in table.stage(rows.slice(keep.start, keep.stop - keep.start), stem="x"):
        found = table.storage.open(file.path).read(["patient_id"])["patient_id"].to_pylist()
        dictionary = pq_dictionary(f"{table.storage.root}/{file.path}")
        assert set(found) == dictionary <= wanted


def pq_dictionary(path: str) -> set[str]:
    import pyarrow.parquet as pq

    column = pq.ParquetFile(path, read_dictionary=["patient_id"]).read(["patient_id"])["patient_id"]
    return {value for chunk in column.chunks for value in chunk.dictionary.to_pylist()}
