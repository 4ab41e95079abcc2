"""Queries that run at once: so many, over all processes; the others wait, and are told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from governance.door.slots import slot
from vitalake.errors import ServiceUnavailable


def test_one_query_too_many_waits_until_one_ends(tmp_path: Path) -> None:
    waits, went = threading.Event(), threading.Event()

    def second() -> None:
        with slot(tmp_path / "q", workers=1, seconds=30, waiting=waits.set):
            went.set()

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
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0.lock", "1.lock"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("a file")
    with pytest.raises(ServiceUnavailable, match="cannot be counted"):
        with slot(tmp_path / "q", workers=1, seconds=0, waiting=lambda: None):
            pass
