"""Locks of a replacement: each has a number, by which its holder knows it and ends no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.vitalake.lake.span_samples import begin, open_lake, write_spans
from vitalake.lake.maintenance.lock import lock_table, outdate_replacement, unlock_table
from vitalake.lake.maintenance.rewrite import is_locked
from vitalake.lake.tables.table import Table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 1)
    return lake.published


def test_a_lock_of_another_number_is_not_ended(table: Table) -> None:
    """A republish that had committed ended the lock of the next one."""
    first = lock_table(table)
    second = lock_table(table)
    unlock_table(table, number=first)
    assert is_locked(table)
    unlock_table(table, number=second)
    assert not is_locked(table)


def test_who_locks_a_table_gets_the_own_number_though_another_takes_it_over_at_once(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, later = Table.commit, list[int]()

    def taken_over(self: Table, **arguments: Any) -> None:
        commit(self, **arguments)
        if self is table:
            monkeypatch.undo()
            later.append(lock_table(table.newest()))

    monkeypatch.setattr(Table, "commit", taken_over)
    assert lock_table(table) < later[0]


def test_a_table_that_is_not_locked_is_left_alone(table: Table) -> None:
    version = table.newest().delta.version()
    unlock_table(table)
    outdate_replacement(table)
    assert table.newest().delta.version() == version
