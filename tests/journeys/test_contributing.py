"""The steps of CONTRIBUTING.md are followed in a copy of the checkout, and what its commands print is compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.documented import run_console, shows

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LEFT = shutil.ignore_patterns(
    ".git", ".venv", ".services", ".*_cache", "__pycache__", "site", "vitalake-home", "*.egg-info"
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with an environment of its own, which takes its dependencies from this one."""
    folder = tmp_path_factory.mktemp("checkout") / "vitalake"
    shutil.copytree(ROOT, folder, ignore=_LEFT)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    packages = folder / ".venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    shutil.copy(Path(sys.executable).parent / "ruff", folder / ".venv" / "bin" / "ruff")
    return folder


def test_the_steps_of_a_declaration_and_of_a_plug_in_lead_where_they_say(copy: Path) -> None:
    path = f"{copy / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    written, runs = [], []
    for language, text in _BLOCK.findall(PAGE.read_text()):
        if language == "console":
            runs += run_console(text, copy, PATH=path, PYTHONPATH="")
            continue
        file = copy / text.splitlines()[0].removeprefix("# ")
        assert not file.exists(), "an example must not exist already"
        file.write_text("".join(text.splitlines(keepends=True)[1:]) if language == "python" else text)
        written.append(file.name)
    assert written == ["imaging_order.yaml", "floor.py"]
    for run in runs:
        assert shows(run.shown, run.said), f"{run.command}\n{run.said}"
    assert len(runs) > 10
