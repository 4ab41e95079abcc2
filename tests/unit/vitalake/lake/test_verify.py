"""Verification finds what is broken, and is silent when nothing is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.unit.vitalake.lake.span_samples import begin, of_before, open_lake, staged_span, write_spans
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.scrub import scrub
from vitalake.lake.maintenance.vacuum import delete_replaced
from vitalake.lake.maintenance.verify import check_files, verify


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake of four spans."""
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 4, days=2)
    return lake


def kinds(lake: Lake) -> set[tuple[str, str]]:
    """Return kind and severity of what is found by a fresh look."""
    return {(finding.kind, finding.severity) for finding in verify(open_lake(Path(lake.storage.root)))}


def test_nothing_is_found_in_a_sound_lake_compacted_or_not(lake: Lake) -> None:
    assert kinds(lake) == set()
    for table in (lake.published, lake.quarantine, lake.spans.table):
        assert compact(table, min_files=2).days > 0
    assert kinds(lake) == set()


def test_decided_and_not_added_is_a_note_until_its_file_is_gone(lake: Lake) -> None:
    span = staged_span(lake, 16, 20)
    lake.spans.decide(span)
    assert kinds(lake) == {("not-added", "note")}
    lake.published.storage.delete(span.files_of(lake.published.name)[0].path)
    assert kinds(lake) == {("not-added", "note"), ("staged-file-missing", "error")}


def _replace_all(lake: Lake) -> None:
    """What a republish or an erasure does: the files of before are replaced, and deleted."""
    other = open_lake(Path(lake.storage.root)).published
    assert compact(other, min_files=2).days > 0
    assert delete_replaced(other) > 0


def test_files_that_are_replaced_while_it_reads_are_no_damage(lake: Lake) -> None:
    table = lake.published
    found = check_files(table, table.snapshot())
    _replace_all(lake)
    assert list(found) == []
    assert list(check_files(table, table.snapshot())) == []
    gone = next(iter(table.newest().snapshot().files))
    table.storage.delete(gone)
    assert {finding.kind for finding in check_files(table, table.newest().snapshot())} == {"file-missing"}


def test_the_scrub_takes_no_replaced_file_for_a_damaged_one(lake: Lake) -> None:
    began: list[str] = []

    def replace(path: str) -> None:
        if not began:
            began.append(path)
            _replace_all(lake)

    assert scrub(lake.published, every_seconds=0, progress=replace).damaged == []
    assert began


def test_a_span_that_is_added_and_rewritten_while_it_reads_is_not_missing(lake: Lake) -> None:
    span = staged_span(lake, 16, 20)
    lake.spans.decide(span)

    def add(what: str) -> None:
        if what.startswith("spans of"):  # the tables' snapshots are taken
            lake.add(span)
            _replace_all(lake)

    assert {finding.kind for finding in verify(open_lake(Path(lake.storage.root)), progress=add)} == {"not-added"}


def _missing(path: Path) -> None:
    path.unlink()


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _fewer_rows(path: Path) -> None:
    size, table = path.stat().st_size, pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(1), path)
    assert path.stat().st_size != size


def _other_columns(path: Path) -> None:
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["unit"]), path)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (_missing, "file-missing"),
        (_truncated, "file-unreadable"),
        (_fewer_rows, "rows-differ"),
        (_other_columns, "schema-differs"),
    ],
)
def test_damaged_file_is_found_by_its_digest_and_one_of_before_by_its_footer(
    lake: Lake, damage: Callable[[Path], None], kind: str
) -> None:
    names = [next(iter(lake.published.snapshot().files))]
    damage(Path(lake.published.storage.root) / names[0])
    assert ("file-missing" if kind == "file-missing" else "digest-differs", "error") in kinds(lake)
    before = of_before(lake.published)
    damage(Path(lake.published.storage.root) / before[1])
    assert {(kind, "error"), ("no-digest", "note")} <= kinds(lake)


def test_rows_that_no_span_has_added_are_found(lake: Lake) -> None:
    stray = staged_span(lake, 100, 104).files_of(lake.published.name)
    lake.published.refresh()
    lake.published.commit(add=stray, transactions={})
    assert kinds(lake) == {("rows-contradict-spans", "error")}


def test_span_that_counts_other_rows_than_its_files_hold_is_found(lake: Lake) -> None:
    span = staged_span(lake, 16, 20)
    span.files = [file for file in span.files if file.table != lake.quarantine.name]
    lake.spans.decide(span)
    lake.add(span)
    assert kinds(lake) == {("span-contradicts-files", "error")}
