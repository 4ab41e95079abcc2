"""One process uses keys and another revokes them: the use stops within a second, and goes on after the restore."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from governance.vault.lease import LEASE_SECONDS, boot_seconds
from vitalake.cli.app import main

_USE = """
import sys, threading
from pathlib import Path
from vitalake.keys import load_keys
from governance.keyservice import KeyRevoked
from vitalake.settings import load_settings
from governance.belonging import open_vault
from governance.vault.lease import boot_seconds
home, pause = Path(sys.argv[1]), threading.Event()
vault = open_vault(load_settings(home), load_keys(home / "keys.yaml"))
first = vault.enrol([("Zzp-1", "v1.a")])
while not pause.wait(0.01):
    before = boot_seconds()
    try:
        assert vault.enrol([("Zzp-1", "v1.a")]) == first
        print("used", before, flush=True)
    except KeyRevoked:
        assert not (vault._lease._ciphers or vault._patients._by_id or vault._patients._by_subject)
        print("locked", before, flush=True)
"""


def test_every_process_is_locked_within_a_second_and_goes_on_by_itself(home: Path) -> None:
    users = [
        subprocess.Popen([sys.executable, "-c", _USE, str(home)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for user in users:
            _await(user, "used")
        assert main(["keys", "revoke", "--home", str(home)]) == 0
        revoked = boot_seconds()
        for user in users:
            used = _await(user, "locked")
            assert all(moment <= revoked + LEASE_SECONDS for moment in used)
        assert main(["keys", "revoke", "--undo", "--home", str(home)]) == 0
        for user in users:
            _await(user, "used")
    finally:
        for user in users:
            user.kill()
            user.communicate()


def _await(user: subprocess.Popen[str], wanted: str) -> list[float]:
    """Read the output up to such a word; return the times of the lines before it."""
    others: list[float] = []
    assert user.stdout is not None
    for line in user.stdout:
        word, moment = line.split()
        if word == wanted:
            return others
        others.append(float(moment))
    pytest.fail("the process has ended")


_OPEN = """
import sys
from pathlib import Path
from vitalake.sqlite import Database
while not (Path(sys.argv[1]) / "go").exists():
    pass
for i in range(40):
    Database(Path(sys.argv[1]) / f"{i}.db", tables="CREATE TABLE IF NOT EXISTS t (a);", name="Test", repair="").close()
"""


def test_processes_that_make_one_file_at_once_all_open_it(tmp_path: Path) -> None:
    makers = [subprocess.Popen([sys.executable, "-c", _OPEN, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(4)]
    (tmp_path / "go").touch()
    errors = [maker.communicate()[1].decode() for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 4, errors
