"""The last transactions of a log: read on entry by entry they are what the whole log says, as delta-rs says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.vitalake.lake.span_samples import open_lake
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.last_transactions import MOST_NEW, LastTransactions
from vitalake.lake.tables.log_files import LOG, entry_name
from vitalake.lake.tables.table import Table


def _commit(table: Table, number: int) -> None:
    table.refresh()
    table.commit(transactions={f"app-{number % 7}": number, "every": number})


@pytest.mark.parametrize("step", [1, 3, MOST_NEW + 10])
def test_read_on_they_are_what_the_whole_log_says(tmp_path: Path, step: int) -> None:
    writer, reader = open_lake(tmp_path).published, open_lake(tmp_path).published
    for first in range(0, 3 * max(step, 45), step):
        for number in range(first, first + step):
            _commit(writer, number)
        reader.refresh()
        every = reader.all_transactions()
        assert every == LastTransactions(reader.storage).at(reader.delta.version())
        assert all(reader.delta.transaction_version(app) == number for app, number in every.items())
        assert reader.transaction("every") == first + step - 1
        assert reader.transaction("nobody") is None


def test_they_stay_as_of_the_last_refresh(tmp_path: Path) -> None:
    writer, reader = open_lake(tmp_path).published, open_lake(tmp_path).published
    _commit(writer, 1)
    assert reader.transaction("every") is None
    reader.refresh()
    _commit(writer, 2)
    assert reader.transaction("every") == 1, "asked for the first time after another commit"
    _commit(reader, 3)
    assert reader.transaction("every") == 2, "who commits refreshes before it goes by what it has committed"
    reader.refresh()
    assert reader.transaction("every") == 3


def test_entries_that_have_expired_since_are_read_in_the_checkpoint(tmp_path: Path) -> None:
    writer, reader = open_lake(tmp_path).published, open_lake(tmp_path).published
    _commit(writer, 1)
    reader.refresh()
    assert reader.transaction("every") == 1
    for number in range(2, 6):
        _commit(writer, number)
    writer.refresh()
    writer.delta.create_checkpoint()
    for version in range(writer.delta.version()):
        Path(tmp_path, "published/observation", LOG, entry_name(version)).unlink()
    reader.refresh()
    assert [reader.transaction(f"app-{number}") for number in range(1, 6)] == [1, 2, 3, 4, 5]


def test_nobody_goes_by_what_a_log_with_a_gap_says(tmp_path: Path) -> None:
    writer, reader = open_lake(tmp_path).published, open_lake(tmp_path).published
    for number in range(4):
        _commit(writer, number)
    reader.refresh()
    Path(tmp_path, "published/observation", LOG, entry_name(2)).unlink()
    with pytest.raises(Damaged, match="an entry is missing"):
        reader.transaction("app-1")
    with pytest.raises(Damaged, match="an entry is missing"):
        reader.all_transactions()
