"""Query slots: only so many queries run at once, over all processes; the others wait, and a log line says so."""

from __future__ import annotations

import errno
import socket
import threading
from pathlib import Path

import pytest

from governance.query.slots import slot
from tests.accounts import ONE, TWO, needs_accounts, open_folder
from vitalake.errors import ServiceUnavailable


def test_one_query_too_many_waits_until_one_ends(tmp_path: Path) -> None:
    waits, went = threading.Event(), threading.Event()

    def second() -> None:
        with slot(tmp_path / "q", workers=1, seconds=30, waiting=waits.set):
            went.set()

    home = tmp_path / "q"
    home.mkdir()
    thread = threading.Thread(target=second)
    with slot(tmp_path / "q", workers=1, seconds=0, waiting=waits.set):
        assert not waits.is_set()
        thread.start()
        assert waits.wait(30)
        assert not went.is_set()
    assert went.wait(30)
    thread.join()
    with slot(tmp_path / "q", workers=1, seconds=0, waiting=pytest.fail), pytest.raises(ServiceUnavailable) as refused:
        with slot(tmp_path / "q", workers=1, seconds=0, waiting=lambda: None):
            pass
    assert "queries.workers" in refused.value.where


def test_places_are_as_many_as_workers(tmp_path: Path) -> None:
    with (
        slot(tmp_path, workers=2, seconds=0, waiting=pytest.fail),
        slot(tmp_path, workers=2, seconds=0, waiting=pytest.fail),
    ):
        with (
            pytest.raises(ServiceUnavailable, match="2 queries run"),
            slot(tmp_path / ".", workers=2, seconds=0, waiting=lambda: None),
        ):
            pass
    assert not list(tmp_path.iterdir()), "the home need not be written"


def test_a_home_has_its_own_places(tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir()
    link.symlink_to(other)
    with (
        slot(tmp_path, workers=1, seconds=0, waiting=pytest.fail),
        slot(other, workers=1, seconds=0, waiting=pytest.fail),
        pytest.raises(ServiceUnavailable, match="1 queries run"),
        slot(link, workers=1, seconds=0, waiting=lambda: None),
    ):
        pass


def test_a_home_that_is_gone_or_sockets_that_are_refused_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot be counted"):
        with slot(tmp_path / "q", workers=1, seconds=0, waiting=lambda: None):
            pass

    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("socket.socket", Refused)
    with pytest.raises(ServiceUnavailable, match="Permission denied"):
        with slot(tmp_path, workers=1, seconds=0, waiting=lambda: None):
            pass


TAKE = """
import sys
from pathlib import Path
from governance.query.slots import slot
try:
    with slot(Path(sys.argv[1]), workers=int(sys.argv[2]), seconds=0, waiting=lambda: None):
        print("taken")
except Exception as error:
    print(error)
"""


@needs_accounts
def test_accounts_that_cannot_write_the_home_share_its_places(tmp_path: Path) -> None:
    """A home that names privacy officers belongs to root: every query of theirs ended with 14."""
    with open_folder() as home:
        for account in (ONE, TWO):
            assert account.run(TAKE, str(home), "1", first="import governance.query.slots") == "taken\n"
        with slot(home, workers=1, seconds=0, waiting=pytest.fail):
            assert "1 queries run" in ONE.run(TAKE, str(home), "1", first="import governance.query.slots")
            assert TWO.run(TAKE, str(home), "2", first="import governance.query.slots") == "taken\n"
