"""Files of a home: nobody else on the machine can read them, whatever mask a process was started with."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.commands.doctor import _permissions
from tests.accounts import ONE, TWO, Account, needs_accounts, open_folder
from tests.attribution import Ward
from vitalake.cli.app import main
from vitalake.lake.maintenance.run import maintain
from vitalake.settings import load_settings


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
    """Tables, logs, sidecars, vault and online store with their write-ahead logs, audit, erasure log, keys, rules."""
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


IMPORTS = "import sys, deltalake, pyarrow.dataset, pyarrow.parquet; from pathlib import Path"
READS = """
home = Path(sys.argv[1])
def tried(what):
    try: return what()
    except OSError: return "denied"
try: print(deltalake.DeltaTable(str(home / "lake/published/observation")).to_pyarrow_table().num_rows)
except Exception: print("denied")
print(tried(lambda: len(list(home.iterdir()))), tried(lambda: len(list((home / "lake").iterdir()))))
print([tried(lambda: (home / name).read_bytes()[:0]) for name in ("keys.yaml", "vault.db", "vitalake.yaml")])
print([tried(lambda: len(list((home / "lake" / zone).iterdir()))) for zone in ("restricted", "spans", "quarantine")])
"""
NOTHING = "denied denied\n['denied', 'denied', 'denied']\n['denied', 'denied', 'denied']\n"


def reads(account: Account, home: Path) -> str:
    """Return what an account can read: rows published, folders, secrets, other zones."""
    return account.run(READS, str(home), first=IMPORTS)


@needs_accounts
def test_a_group_reads_what_is_published_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """Also what streams, compaction and a republish add later; and nobody does once the setting is gone."""
    with open_folder() as folder:
        home = folder / "home"
        init_home(home, copy_samples)
        ward = Ward(home)
        ward.stream([ward.bed(0, subject={"reference": "Patient/A"}), ward.bed(1, subject={"reference": "Patient/B"})])
        assert reads(ONE, home) == f"denied\n{NOTHING}"
        (home / "vitalake.yaml").write_text(f"lake: {{readers: {ONE.group}}}")
        assert f"the group {ONE.group} cannot read" in _doctor(home, capsys)
        assert main(["lake", "permissions", "--home", str(home)]) == 0
        assert f"only the group {ONE.group} can read published data" in _doctor(home, capsys)
        assert reads(ONE, home) == f"2\n{NOTHING}"
        assert reads(TWO, home) == f"denied\n{NOTHING}"

        ward.stream([ward.bed(2, subject={"reference": "Patient/C"})])
        assert reads(ONE, home) == f"3\n{NOTHING}"
        maintain(ward.lake, ward.lake.present().values())
        assert main(["lake", "rewrite", "--republish", "observation", "--home", str(home)]) == 0
        assert reads(ONE, home) == f"3\n{NOTHING}"

        (home / "vitalake.yaml").write_text("{}")
        assert main(["lake", "permissions", "--home", str(home)]) == 0
        assert reads(ONE, home) == f"denied\n{NOTHING}"
        assert wide(home) == {}


def _doctor(home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the doctor says of permissions."""
    capsys.readouterr()
    settings = load_settings(home)
    return " ".join(f"{check.result} {check.finding} {check.remedy}" for check in _permissions(settings))


def test_the_doctor_names_what_is_wider_and_the_command_that_closes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A home as it was made before: 0755 and 0644 throughout, the lake elsewhere."""
    home, lake = tmp_path / "home", tmp_path / "lake"
    init_home(home, copy_samples)
    (home / "vitalake.yaml").write_text(f"lake: {{uri: {lake}}}")
    ward = Ward(home)
    ward.stream([ward.bed(0, subject={"reference": "Patient/A"})])
    assert "ok no other account can read files" in _doctor(home, capsys)
    (home / "link").symlink_to("/")
    for root in (home, lake):
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
    said = _doctor(home, capsys)
    assert f"warn other accounts can use {home}, {lake} run 'vitalake lake permissions --home {home}'" in said
    home.chmod(0o711)  # a folder that can be walked through, to files that can be read by their names
    assert f"{home}" in _doctor(home, capsys)
    assert main(["lake", "permissions", "--home", str(home), "--json"]) == 0
    assert "ok no other account can read files" in _doctor(home, capsys)
    (home / "link").unlink()
    assert wide(home) == wide(lake) == {}
    assert Path("/").stat().st_mode & 0o055  # the link was not followed
    assert main(["lake", "permissions", "--home", str(home)]) == 0
    assert "0 files" in capsys.readouterr().out


def test_a_group_that_is_none_and_an_object_store_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "vitalake.yaml").write_text("lake: {readers: no-such-group-here}")
    assert "fail Group does not exist on this machine" in _doctor(home, capsys)
    assert main(["lake", "permissions", "--home", str(home)]) == 10
    (home / "vitalake.yaml").write_text("lake: {uri: 's3://bucket/lake'}")
    assert load_settings(home).lake_folder is None
    assert "ok no other account can read files" in _doctor(home, capsys)
    (home / "vitalake.yaml").write_text("privacy_officers: [somebody]")
    assert "configuration does not count" in _doctor(home, capsys) or os.getuid() != home.stat().st_uid
