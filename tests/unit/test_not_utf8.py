"""A file in the lake or the home that was damaged within a text ends with what to do, and not with a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from governance.belonging.fingerprints import FILE, read_fingerprints
from governance.erasure.certificate import load
from pipelines.simulator.anchors import FILE_NAME, load_or_create
from vitalake.errors import VitaLakeError
from vitalake.lake.commits.format import NAME, read_format
from vitalake.lake.maintenance.journal import FOLDER, Journal
from vitalake.lake.tables.digests import Marks
from vitalake.lake.tables.storage import open_storage

READERS: dict[str, Callable[[Path], object]] = {
    FILE: lambda home: read_fingerprints(open_storage(str(home), {})),
    NAME: lambda home: read_format(open_storage(str(home), {})),
    f"{FOLDER}/observation/job.json": lambda home: Journal(open_storage(str(home), {}), "observation").job(),
    FILE_NAME: load_or_create,
    "erasure-1.json": lambda home: load(home, "erasure-1"),
}
"""File → what reads it."""


def _damaged(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = (b'"Zzmarker\xe9": 1', b'"format": 1', b'"id": "\xe9"', b'"vault": "\xe9"', b'"done": ["\xe9"]')
    path.write_bytes(b"{%b}" % b", ".join((*fields, b'"shift_seconds": {"\xe9": 1}')))
    return path


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_text_is_told_with_its_file_and_what_to_do(tmp_path: Path, name: str) -> None:
    _damaged(tmp_path / name)
    with pytest.raises(VitaLakeError) as refused:
        READERS[name](tmp_path)
    assert refused.value.where and refused.value.remedy
    assert "Zzmarker" not in str(refused.value) and refused.value.__cause__ is None


def test_a_damaged_cache_of_what_was_found_good_is_taken_as_empty(tmp_path: Path) -> None:
    Marks(_damaged(tmp_path / ".found-good.json"))
