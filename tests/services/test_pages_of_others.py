"""A package brings a page, as the how-to page shows it: the server has it, and it goes through the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documented import blocks, install, passed_own_tests, run_console

PAGE = "write-a-page.md"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def ward(home: Path) -> Path:
    """A home beside ``packages``, which has the page's package with its template; return the folder of both."""
    packages = install(PAGE, home.parent / "packages")
    (template,) = blocks(PAGE, "html")
    path = packages / template.splitlines()[0].removeprefix("{# ").removesuffix(" #}")
    path.parent.mkdir()
    path.write_text(template)
    return home.rename(home.parent / "ward").parent


def test_a_page_of_another_package_is_registered_as_the_page_shows(ward: Path) -> None:
    (console,) = blocks(PAGE, "console")
    for run in run_console(console, ward, PYTHONPATH=str(ward / "packages")):
        assert run.said == run.shown, run.command


def test_the_package_s_own_tests_run_through_the_contract(ward: Path) -> None:
    packages = ward / "packages"
    assert passed_own_tests(packages, "test_hospital_pages.py") == 12
