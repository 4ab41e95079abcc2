"""Who runs a process, also where they made a user namespace to be somebody else in it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vitalake.accounts import NOBODY, Account, account, is_owned_by


def as_another(code: str, *options: str) -> str:
    """Return what Python prints in a user namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare of util-linux is not installed")
    done = subprocess.run(
        ["unshare", "--user", *options, sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    if "unshare" in done.stderr and "CI" not in os.environ:
        pytest.skip("this system lets nobody make user namespaces")
    assert done.returncode == 0, done.stderr
    return done.stdout


WHO = """
from governance.access.principal import local_principal
from vitalake.accounts import account
print(local_principal().subject, account().number, account().mapped)
"""


@pytest.mark.parametrize("claimed", [0, 1, 2])
def test_in_a_namespace_of_ones_own_one_is_who_one_is_outside(claimed: int) -> None:
    mine = os.getuid()
    assert as_another(WHO, f"--map-user={claimed}") == f"local:mapped-uid-{mine} {mine} True\n"


def test_an_account_without_any_map_is_nobody() -> None:
    assert as_another(WHO) == f"local:mapped-uid-unknown {NOBODY} True\n"


def test_in_a_namespace_nobody_approves_for_a_second_account(home: Path) -> None:
    command = ["models", "approve", "mortality", "--unit", "icu", "--report", "V-7", "--events", "120"]
    code = f"from vitalake.cli.app import main; print(main({[*command, '--home', str(home)]!r}))"
    assert as_another(code, "--map-user=1") == "12\n"


def test_outside_the_systems_list_has_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = os.getuid()
    ranges = tmp_path / "uid_map"
    monkeypatch.setattr("vitalake.accounts._MAP", ranges)
    ranges.write_text("         0          0 4294967295\n")
    assert account() == Account(mine, pwd.getpwuid(mine).pw_name, mapped=False)
    for text in (f"{mine} {mine} 1\n", f"0 0 {mine + 9}\n"):  # whoever makes a namespace may map themselves so
        ranges.write_text(text)
        assert account() == Account(mine, f"mapped-uid-{mine}", mapped=True)
    ranges.write_text(f"{mine} 0 1\n{mine + 1} 100000 65536\n")
    assert account().number == 0
    assert is_owned_by(mine, mine)
    assert not is_owned_by(mine + 1, mine)
    ranges.unlink()
    assert account() == Account(NOBODY, "mapped-uid-unknown", mapped=True)


def test_in_a_namespace_a_lent_id_is_told_by_what_it_is_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There the file of an id that was lent to whoever made the namespace may look like root's."""
    ranges, lent = tmp_path / "uid_map", tmp_path / "subuid"
    ranges.write_text("0 100000 1\n1000 1000 1\n")
    lent.write_text("1000:100000:65536\n")
    monkeypatch.setattr("vitalake.accounts._MAP", ranges)
    monkeypatch.setattr("vitalake.accounts._SUBORDINATE", lent)
    assert is_owned_by(0, 1000)
    lent.write_text("1001:100000:65536\n")
    assert not is_owned_by(0, 1000)
    lent.unlink()
    assert not is_owned_by(0, 1000)
