"""Files of a home: nobody else on the machine can read them, whatever mask a process was started with."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from governance.samples import copy_samples
from tests.attribution import Ward
from vitalake.cli.app import main
from vitalake.home import init_home
from vitalake.lake.maintenance import maintain


@pytest.fixture(autouse=True)
def open_mask() -> Iterator[None]:
    """The mask that lets everybody in."""
    before = os.umask(0)
    yield
    os.umask(before)


def wide(folder: Path) -> dict[str, str]:
    """Return what group or others may do anything with, by mode; the folder itself too."""
    found = {path: path.lstat().st_mode for path in (folder, *folder.rglob("*"))}
    return {str(path.relative_to(folder)): oct(mode) for path, mode in found.items() if stat.S_IMODE(mode) & 0o077}


def test_nothing_of_a_home_can_be_read_by_another_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, logs, sidecars, vault and care store with their write-ahead logs, audit, erasure log, keys, rules."""
    home = tmp_path / "home"
    init_home(home, copy_samples)
    ward = Ward(home)
    os.umask(0)  # as if each of these were a process of its own
    ward.stream([ward.bed(0), ward.bed(1)])
    os.umask(0)
    maintain(ward.lake, ward.lake.present().values())
    associate = ["--device", "bed-1", "--patient", "A", "--from", "2026-03-01T10:00:00Z"]
    for command in (
        ["devices", "associate", *associate],
        ["devices", "attribute"],
        ["sql", "SELECT count(*) FROM observation"],
        ["patient", "erase", "A", "--reason", "request-1", "--yes"],
        ["lake", "rewrite", "--republish", "observation"],
        ["audit", "verify"],
    ):
        os.umask(0)
        assert main([*command, "--home", str(home)]) == 0, capsys.readouterr().err
    kinds = {path.name for path in home.rglob("*")}
    assert {"vault.db", "care.db", "keys.yaml", "audit", "erasures.jsonl", "restricted", "published"} <= kinds
    assert wide(home) == {}


def test_an_empty_folder_becomes_a_private_home_and_a_used_one_keeps_its_mode(tmp_path: Path) -> None:
    for name, mode in (("empty", 0o700), ("used", 0o755)):
        folder = tmp_path / name
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        if name == "used":
            (folder / "notes").touch(mode=0o600)
        init_home(folder, copy_samples)
        assert stat.S_IMODE(folder.stat().st_mode) == mode
        assert wide(folder).keys() <= {".", "notes"}
