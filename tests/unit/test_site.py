"""The documentation site has every page, links lead somewhere, and `vitalake` is on the path as install says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from docs import site
from docs.site import missing_links, unlisted_pages
from tests.documented import DOCS

INSTALL = [
    block
    for block in re.findall(r"^```bash\n(.*?)^```", (DOCS / "install.md").read_text(), re.MULTILINE | re.DOTALL)
    if ".venv" in block
]


def test_every_link_leads_to_a_file_and_every_page_is_in_the_navigation() -> None:
    assert missing_links() == []
    assert unlisted_pages() == []


def test_a_link_to_nothing_is_found_but_not_one_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "[there](docs) [gone](docs/gone.md#here) ![no](a.png) [web](https://example.org)"
    )
    (tmp_path / "docs" / "page.md").write_text(
        "`[shown](gone.md)`\n\n```\n[shown](gone.md)\n```\n\n[up](../README.md) [a](#a)"
    )
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(site, "OUTSIDE", {})
    assert missing_links() == ["README.md: docs/gone.md", "README.md: a.png"]


def test_links_lead_to_where_pages_are_on_the_site() -> None:
    page = DOCS / "how-to" / "some.md"
    text = (
        "[a](history.md#the-gate) [b](../../CHANGELOG.md) [c](../decisions/) [d](../../README.md) [e](../../Makefile)"
    )
    led = site.for_the_site(page, text, depth=1)
    assert led == (
        "[a](../how-to/history.md#the-gate) [b](../changelog.md) [c](../decisions/index.md) [d](../index.md) e\n"
    )


def test_what_belongs_to_an_item_of_a_list_stays_with_it() -> None:
    shown = "- one:\n\n  ```yaml\n  a:\n    b: 1\n  ```\n- two\n\n```console background\n$ ls\n  - x\n```\n"
    assert site.as_markdown(shown) == (
        "- one:\n\n    ```yaml\n    a:\n      b: 1\n    ```\n\n- two\n\n```console\n$ ls\n  - x\n```\n"
    )


@pytest.mark.parametrize("block", INSTALL)
def test_what_install_says_puts_the_command_on_the_path(block: str) -> None:
    environment = os.environ | {"PATH": "/usr/bin:/bin"}
    command = ["bash", "-ec", f"{block}\ncd / && command -v vitalake"]
    done = subprocess.run(command, cwd=site.ROOT, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == site.ROOT / ".venv" / "bin" / "vitalake"
    assert len(INSTALL) == 2
