"""The demo as a newcomer runs it, ended by its duration: everything that was sent is in the ledger."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from vitalake.lake.spans import COUNT_NAMES


def test_a_short_demo_accounts_for_every_message_that_was_sent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitalake", "demo", "--duration", "10s", "--json", "--home", str(tmp_path / "h")]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    summary = msgspec.json.decode(done.stdout)
    assert {*COUNT_NAMES, "balanced", "latency_ms"} <= summary.keys()
    assert {"p50", "p99"} <= summary["latency_ms"].keys()
    assert summary["balanced"] is True
    assert summary["messages"] == summary["demo"]["sent"] > 0
    assert summary["published"] > 0
