"""A package brings a page, as the how-to page shows it: the server has it, and it goes through the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import blocks, install, run_console

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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hospital_pages.py"]
    environment = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=packages, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
