"""Pages of the documentation as tests run them: their blocks as they are written, output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Run(NamedTuple):
    """A command of a page, what it shows below it, and what it said."""

    command: str
    shown: str
    said: str


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of a page in a language, in order."""
    found = [text for of, text in _BLOCK.findall((HOW_TO / page).read_text()) if of == language]
    assert found, f"{page} has no block of {language}"
    return found


def run_console(text: str, folder: Path, **environment: str) -> list[Run]:
    """Run the commands of a console block in a folder by a shell; return what each said, on both streams."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    runs = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=os.environ | {"PATH": path} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        runs.append(Run(command, shown, done.stdout))
    return runs
