"""The demo as a newcomer runs it, ended by its duration: every message is accounted for, and no name is stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.history.warehouse import open_warehouse
from pipelines.simulator.warehouse_mimic import make_demo_warehouse
from vitalake.lake.commits.span import COUNT_NAMES

WAREHOUSE = ".duckdb"
"""Files with these endings belong to the source."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], bytes]:
    """Run the demo; return its home, its summary and everything it printed."""
    home = tmp_path_factory.mktemp("demo") / "h"
    command = [sys.executable, "-m", "vitalake", "demo", "--duration", "10s", "--json", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, timeout=250, check=False, umask=0)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return home, msgspec.json.decode(done.stdout), done.stdout + done.stderr


def test_a_short_demo_accounts_for_every_message_that_was_sent(demo: tuple[Path, dict[str, Any], bytes]) -> None:
    _, summary, _ = demo
    assert {*COUNT_NAMES, "balanced", "latency_ms"} <= summary.keys()
    assert {"p50", "p99"} <= summary["latency_ms"].keys()
    assert summary["balanced"] is True
    assert summary["messages"] == summary["demo"]["sent"] > 0
    assert summary["published"] > 0


def test_it_goes_the_whole_way(demo: tuple[Path, dict[str, Any], bytes]) -> None:
    _, summary, _ = demo
    assert summary["history_rows"] > 150_000
    assert summary["model"] == "mortality/1"
    assert 0 < summary["auroc"] < 1
    assert summary["scores"] > 10
    assert {"p50", "p99"} <= summary["board_latency_ms"].keys()


def test_nobody_is_named_in_anything_it_wrote_or_printed(demo: tuple[Path, dict[str, Any], bytes]) -> None:
    """Lake, MLflow's store, audit, logs, scores, and the files of online store and vault, byte by byte."""
    home, _, printed = demo
    with open_warehouse(f"duckdb:{make_demo_warehouse(home)}", home=home) as warehouse:
        sql = "SELECT name, mrn, address FROM patient"
        planted = {str(v).encode() for batch in warehouse.read(sql) for row in batch.to_pylist() for v in row.values()}
        sql = "SELECT patient_id FROM patient UNION SELECT hospitalization_id FROM hospitalization"
        numbers = {
            b'"%b"' % str(v).encode() for b in warehouse.read(sql) for row in b.to_pylist() for v in row.values()
        }
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix != WAREHOUSE]
    kinds = {path.relative_to(home).parts[0] for path in files}
    assert {"lake", "mlflow", "audit", "care.db", "vault.db", "scores.db", "quality"} <= kinds
    assert len(planted) > 200
    for path in files:
        content = path.read_bytes()
        found = [text for text in planted if text in content]
        assert not found, f"{len(found)} texts of the vault in {path.relative_to(home)}"
        if path.name != "anchors.json":  # how the source's own stays are moved in time
            assert not [text for text in numbers if text in content], path.relative_to(home)
        assert not [text for text in planted if text.decode() in str(path)]
    assert not [text for text in planted | numbers if text in printed]


def test_nobody_else_on_the_machine_can_read_a_file_of_it(demo: tuple[Path, dict[str, Any], bytes]) -> None:
    """The demo starts with a umask that allows everybody, so that every process and library has to set permissions."""
    home, _, _ = demo
    assert not [path for path in (home, *home.rglob("*")) if path.lstat().st_mode & 0o077]
