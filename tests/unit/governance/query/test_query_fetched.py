"""Copies of restricted files are deleted soon after the query that fetched them, even if it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from governance.query.fetched import fetch_folder

HOLDS = """
from governance.query.fetched import fetch_folder
with fetch_folder() as folder:
    (folder / "restricted.parquet").write_bytes(b"x")
    print(folder, flush=True)
    input()
"""


def test_what_a_killed_query_has_fetched_is_deleted_and_what_a_living_one_has_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "vitalake-door-file").write_text("of nobody")
    (tmp_path / "vitalake-door-just-made").mkdir()
    (tmp_path / "vitalake-door-link").symlink_to(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
    )
    assert process.stdout is not None
    held = Path(process.stdout.readline().strip())
    with fetch_folder() as mine:
        assert held.is_dir()
        assert list(mine.iterdir()) == []
    assert not mine.exists()
    process.kill()
    process.communicate()
    assert (held / "restricted.parquet").exists(), "nobody has deleted it"
    with fetch_folder():
        assert not held.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "vitalake-door-file", "vitalake-door-just-made", "vitalake-door-link"
    }  # fmt: skip
