"""Messages as senders write them, and the rows that they decode to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.decoding import FOLDER, FORMATS, inputs, output_of, produced


def test_there_are_pairs_and_no_output_is_left_over() -> None:
    for kind in FORMATS:
        names = {path.name for path in (FOLDER / kind / "input").iterdir()}
        assert names
        assert {path.name for path in (FOLDER / kind / "output").iterdir()} == names


@pytest.mark.parametrize("path", inputs(), ids=lambda path: path.name)
def test_golden(path: Path) -> None:
    assert produced(path) == output_of(path).read_text(), "python -m tests.golden.decoding writes it anew"
