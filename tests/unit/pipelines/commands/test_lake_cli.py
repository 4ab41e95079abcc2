"""The commands on the lake: data for programs, words for people, exit codes for both, and never a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.commands import ledger as ledger_command
from tests.unit.vitalake.lake.span_samples import begin, open_lake, positions, staged_span, write_spans
from vitalake.cli.app import main
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import COUNT_NAMES

COMMANDS = [
    ["lake", "tables"], ["lake", "show", "published/observation"], ["lake", "show", "spans"], ["lake", "verify"],
    ["lake", "compact"], ["ledger", "--by", "partition"], ["dead-letters", "list"],
    ["dead-letters", "show", "vitals[0]", "3"],
]  # fmt: skip
MARKERS = ["pseudonym-", "sealed", "c2VhbGVk", "8867-4"]
"""Values that stand in the rows: a pseudonym, a payload (plain and in base64), a code."""


@pytest.fixture
def lake(home: Path) -> Lake:
    """The lake of a home: ten spans of four messages, the last of each undecodable."""
    lake = open_lake(home / "lake")
    begin(lake)
    write_spans(lake, 10)
    return lake


def run(home: Path, capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> Any:
    """Run a command with --json and return what it printed."""
    assert main([*command, "--home", str(home), "--json"]) == code
    return msgspec.json.decode(capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("json", [True, False])
def test_no_command_shows_a_value_of_a_row(
    home: Path, lake: Lake, capfd: pytest.CaptureFixture[str], command: list[str], *, json: bool
) -> None:
    assert main([*command, "--home", str(home), *(["--json"] if json else [])]) == 0
    printed = capfd.readouterr()
    assert printed.out.strip()
    assert not [marker for marker in MARKERS if marker in printed.out + printed.err]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_where_there_is_no_lake_looking_says_so_and_makes_none(
    home: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, "--home", str(home)]) == 11
    assert "There is no lake yet" in capsys.readouterr().err
    assert not (home / "lake").exists()


def test_tables_and_show_tell_files_schema_and_data_classes(
    home: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {entry["table"]: entry for entry in run(home, capsys, "lake", "tables")["tables"]}
    assert set(tables) == {"published/observation", "restricted/observation", "quarantine/dead_letter", "spans"}
    assert (tables["published/observation"]["files"], tables["published/observation"]["rows"]) == (10, 30)
    shown = run(home, capsys, "lake", "show", "published/observation")
    classes = {column["name"]: column["data_class"] for column in shown["columns"]}
    assert classes["patient_id"] == "patient-identifier"
    assert shown["days"] == [{"day": "2026-03-01", "files": 10, "rows": 30, "bytes": shown["bytes"]}]
    assert main(["lake", "show", "passwords", "--home", str(home)]) == 11


def test_compact_merges_and_vacuum_keeps_what_is_young(
    home: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(home, capsys, "lake", "compact", "--table", "published/observation", "--vacuum")["tables"]
    assert [(d["files_before"], d["files_after"], d["rows"], d["deleted"]) for d in done] == [(10, 1, 30, 0)]
    assert len(run(home, capsys, "lake", "compact")["tables"]) == 4
    assert [entry["files"] for entry in run(home, capsys, "lake", "tables")["tables"]] == [1, 0, 1, 1]
    assert run(home, capsys, "lake", "verify") == {"sound": True, "findings": []}
    assert len(positions(lake)) == 30


def test_verify_ends_with_13_when_a_file_is_lost_but_not_for_what_is_about_to_be_added(
    home: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    lake.spans.decide(staged_span(lake, 40, 44))
    found = run(home, capsys, "lake", "verify")
    assert [finding["kind"] for finding in found["findings"]] == ["not-added", "not-added"]
    lake.published.storage.delete(next(iter(lake.published.snapshot().files)))
    assert run(home, capsys, "lake", "verify", code=13)["sound"] is False


def test_ledger_json_has_the_documented_keys(home: Path, lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(home, capsys, "ledger")
    assert set(COUNT_NAMES) | {"balanced", "latency_ms"} <= set(summary)
    assert (summary["messages"], summary["published"], summary["undecodable"]) == (40, 30, 10)
    assert set(summary["latency_ms"]) == {"p50", "p99"}
    assert ledger_command._COLUMNS == COUNT_NAMES
    assert main(["ledger", "--job", "none-such", "--home", str(home)]) == 10


def test_ledger_that_does_not_balance_ends_with_13(home: Path, lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    lake.spans.table.refresh()
    inner = sorted(lake.spans.all_spans(), key=lambda span: span.decided_us)[4]
    files = [f for f in lake.spans.table.snapshot().files.values() if inner.span_id in f.path]
    lake.spans.table.commit(remove=files, transactions={})
    summary = run(home, capsys, "ledger", code=13)
    assert summary["problems"] == ["positions have a gap: vitals[0]@16-20"]


def test_dead_letters_are_counted_by_reason_and_shown_without_their_envelope(
    home: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(home, capsys, "dead-letters", "list", "--limit", "3")
    assert (found["total"], found["reasons"]) == (10, {"not-json": 10})
    assert [row["position"] for row in found["dead_letters"]] == [39, 35, 31]
    assert run(home, capsys, "dead-letters", "list", "--reason", "unit")["dead_letters"] == []
    shown = run(home, capsys, "dead-letters", "show", "vitals[0]", "7")["dead_letters"]
    assert [row["reason"] for row in shown] == ["not-json"]
    assert not {"payload", "nonce"} & set(shown[0])
    assert main(["dead-letters", "show", "vitals[0]", "8", "--home", str(home)]) == 11
