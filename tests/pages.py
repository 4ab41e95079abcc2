"""Runs the blocks of a page as a reader does: each ``sh`` in a shell, its output held against the ``text`` after it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"```(sh|text)\n(.*?)```", re.DOTALL)


def run_page(page: Path, folder: Path) -> int:
    """Run a page's blocks one after the other in a folder; return how many there are.

    Each ``sh`` block must end well and print what the ``text`` block behind it shows, letter by letter but for blanks
    at the ends of lines; without one it prints nothing.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VITALAKE_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VITALAKE_OBSERVABILITY__PORT": "0",
        "COLUMNS": "160",
    }
    blocks = _BLOCK.findall(page.read_text())
    count = 0
    for place, (kind, block) in enumerate(blocks):
        if kind != "sh":
            assert place and blocks[place - 1][0] == "sh", f"{page.name}: output without a command: {block}"
            continue
        shown = blocks[place + 1][1] if blocks[place + 1 : place + 2] and blocks[place + 1][0] == "text" else ""
        words = ["bash", "-ec", block]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page.name}:\n{block}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        assert _lines(done.stdout) == _lines(shown), f"{page.name}:\n{block}"
        count += 1
    return count


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]
