"""The pages' blocks are run as they stand, from an empty folder, and what they print is held against what is shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.documented import DOCS, FIRST, HOME, run_page, shows

OWN = {"declare-a-task", *(path.stem for path in DOCS.glob("how-to/write-*.md"))}
"""Pages whose blocks other tests run: they find them by ``documented.blocks``."""

PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in (DOCS / "install.md", *DOCS.glob("how-to/*.md"), *DOCS.glob("tutorials/*.md"))
    if path.stem not in OWN and any(fence in path.read_text() for fence in ("```console", "```sh"))
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the first tutorial was followed: other pages go on in its home."""
    folder = tmp_path_factory.mktemp("first")
    assert run_page(FIRST, folder) > 5
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_print_what_it_shows(page: str, first: Path, tmp_path: Path) -> None:
    path = DOCS / page
    if path == FIRST:
        return  # the fixture has run it
    if HOME in path.read_text():
        shutil.copytree(first / "ward", tmp_path / "ward")
    assert run_page(path, tmp_path) >= 1


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        ("a … c\n", "a b c\n", True),
        ("a … c\n", "a b d\n", False),
        ("a\n…\nz\n", "a\nb\nc\nz\n", True),
        ("a\n…\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("", "a\n", False),
        ("a (1.0)\n", "a (1x0)\n", False),
        ("a   \n", "a\n", True),
    ],
)
def test_dots_stand_for_what_varies_and_nothing_else(shown: str, said: str, same: bool) -> None:
    assert shows(shown, said) is same
