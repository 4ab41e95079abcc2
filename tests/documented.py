"""Pages of the documentation as tests run them: their blocks as they are written, output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
HOW_TO = DOCS / "how-to"
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


def install(page: str, folder: Path) -> Path:
    """Put a page's package into a folder, as pip would: its modules, and what its ``pyproject.toml`` registers."""
    for text in blocks(page, "python"):
        path = folder / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (project,) = map(tomllib.loads, blocks(page, "toml"))
    told = project["project"]
    info = folder / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    groups = told["entry-points"].items()
    lines = [line for group, of in groups for line in (f"[{group}]", *(f"{name} = {to}" for name, to in of.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


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


def run_page(page: Path, folder: Path) -> int:
    """Run a page's ``sh`` blocks one after the other in a folder; return how many there are.

    Each must end well and print what the ``text`` block behind it shows, letter by letter but for blanks at the ends of
    lines; without one it prints nothing.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VITALAKE_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VITALAKE_OBSERVABILITY__PORT": "0",
        "COLUMNS": "160",
    }
    found = [(kind, text) for kind, text in _BLOCK.findall(page.read_text()) if kind in ("sh", "text")]
    for place, (kind, block) in enumerate(found):
        if kind == "text":
            assert place and found[place - 1][0] == "sh", f"{page.name}: output without a command: {block}"
            continue
        shown = found[place + 1][1] if found[place + 1 : place + 2] and found[place + 1][0] == "text" else ""
        words = ["bash", "-ec", block]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page.name}:\n{block}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        assert _lines(done.stdout) == _lines(shown), f"{page.name}:\n{block}"
    return sum(kind == "sh" for kind, _ in found)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]
