"""A home and lake of an earlier release: what it read then it reads now, wherever it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from governance.masks import Pseudonyms
from tests import frozen
from vitalake.keys import load_keys
from vitalake.settings import load_settings
from vitalake.vault import open_vault


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as that release left it."""
    return frozen.unpack(tmp_path_factory.mktemp("frozen"))


@pytest.fixture
def home(unpacked: Path, tmp_path: Path) -> Path:
    """A copy of it, elsewhere."""
    return Path(shutil.copytree(unpacked, tmp_path / "elsewhere" / "home"))


def test_it_reads_what_it_read_then(home: Path) -> None:
    wanted = frozen.expected()
    assert frozen.reading(home, like=wanted["lies"]) == wanted["lies"]


def test_what_was_decided_and_not_added_is_added_once(home: Path) -> None:
    wanted = frozen.expected()
    for _ in range(2):
        frozen.settle(home)
        assert frozen.reading(home, like=wanted["settled"]) == wanted["settled"]


def test_the_erased_patient_is_in_no_byte_of_it_and_stays_forgotten(home: Path) -> None:
    wanted = frozen.expected()
    assert frozen.traces(home, wanted["erased"]) == []
    assert frozen.traces(home, [frozen.PATIENTS[30]]) == []  # others' numbers are sealed
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    others = Pseudonyms(keys, "patient-identifier").token(frozen.PATIENTS[30])
    assert frozen.traces(home, [others])  # so the search does find what is there
    vault = open_vault(settings, keys)
    try:
        assert vault.look_up(wanted["erased"][-1]) is None
    finally:
        vault.close()
