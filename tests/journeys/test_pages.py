"""The documentation pages are true: their blocks run in a new folder, and their output is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documented import DOCS, run_page

PAGES = ("install.md", "how-to/declare-a-dataset.md", "how-to/declare-codes.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_print_what_it_shows(page: str, tmp_path: Path) -> None:
    assert run_page(DOCS / page, tmp_path) >= 2
