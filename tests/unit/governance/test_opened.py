"""What Python programs get by ``vitalake.open``: published rows, on record, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import polars
import pyarrow as pa
import pytest

import vitalake
from governance.audit import latest
from governance.home import init_home
from governance.samples import copy_samples
from tests.unit.governance.query.query_samples import publish_samples
from tests.unit.vitalake.lake.span_samples import begin, open_lake, write_spans
from vitalake.errors import InputError, SettingsError
from vitalake.keys import load_keys

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "python.md"


@pytest.fixture
def filled(home: Path) -> Path:
    """A home with published rows."""
    publish_samples(home / "lake")
    return home


def test_current_rows_are_read_as_a_table_that_other_libraries_take(filled: Path) -> None:
    table = vitalake.open(filled).read("observation", ["code", "value"])
    assert isinstance(table, pa.Table)
    assert sorted(table["value"].to_pylist()) == [71.0, 74.0, 75.0, 99.0]
    frame = polars.DataFrame(polars.from_arrow(table))
    assert sorted(table.to_pandas()["value"]) == sorted(frame["value"]) == [71.0, 74.0, 75.0, 99.0]


def test_without_columns_all_that_is_published_is_read_and_nothing_else(filled: Path) -> None:
    opened = vitalake.open(filled)
    columns = opened.columns("observation")
    assert opened.read("observation").schema.names == list(columns)
    assert "value_text" not in columns
    with pytest.raises(InputError, match="No such column"):
        opened.read("observation", ["value_text"])


def test_reading_is_on_record_before_a_row_is_handed_out(filled: Path) -> None:
    opened = vitalake.open(filled)
    opened.batches("observation", ["value"], purpose="ward-report")
    keys = load_keys(opened.settings.path(opened.settings.keys))
    (record, *_) = latest(opened.settings.path(opened.settings.audit), keys, limit=1)
    assert (record.action, record.detail["purpose"]) == ("published.read", "ward-report")


def test_what_is_read_is_what_was_asked_for_though_the_list_changes(filled: Path) -> None:
    asked, codes = ["value"], ["2708-6"]
    batches = vitalake.open(filled).batches("observation", asked, where={"code": codes})
    asked.append("patient_id")
    codes.append("8867-4")
    table = pa.Table.from_batches(batches)
    assert (table.schema.names, table["value"].to_pylist()) == (["value"], [74.0])


def test_a_word_in_the_place_of_a_list_of_values_is_refused(filled: Path) -> None:
    with pytest.raises(InputError, match="must be a list"):
        vitalake.open(filled).read("observation", ["value"], where={"code": "8867-4"})


def test_sql_and_rows_are_the_same(filled: Path) -> None:
    opened = vitalake.open(filled)
    answer = opened.sql("SELECT value FROM observation ORDER BY value")
    assert answer.rows["value"].to_pylist() == sorted(opened.read("observation", ["value"])["value"].to_pylist())


def test_where_no_lake_is_nothing_is_made_by_looking(home: Path) -> None:
    before = sorted(home.rglob("*"))
    with pytest.raises(InputError, match="There is no lake yet"):
        vitalake.open(home).ledger()
    assert sorted(home.rglob("*")) == before


def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="vitalake init"):
        vitalake.open(tmp_path / "nowhere")


def test_the_variable_says_which_home(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITALAKE_HOME", str(filled))
    assert vitalake.open().settings.home == filled


def test_the_page_s_examples_run(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(lake := open_lake(filled / "lake"))
    write_spans(lake, 1)
    monkeypatch.chdir(filled.rename(filled.with_name("vitalake-home")).parent)
    named: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(compile(block, str(PAGE), "exec"), named)  # noqa: S102 - our own page
    assert named["count"] == vitalake.open().read("observation", ["value"]).num_rows > 0
    assert isinstance(named["then"], pa.Table)


def test_two_homes_are_read_in_turns_each_with_what_it_declares(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    init_home(other, copy_samples)
    (other / "datasets").mkdir()
    (other / "datasets" / "answer.yaml").write_text(
        "name: answer\nkind: record\nkey: [patient_id, version]\nday_of: answered_at\ncolumns:\n"
        "  - {name: answered_at, type: timestamp, class: date-of-service, description: when}\n"
    )
    publish_samples(other / "lake")
    second, first = vitalake.open(other), vitalake.open(filled)
    for _ in range(2):
        assert "answered_at" in second.columns("answer")
        assert second.read("observation", ["value"]).num_rows == 4
        with pytest.raises(InputError):
            first.columns("answer")
        assert first.read("observation", ["value"]).num_rows == 4
