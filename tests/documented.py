"""Runs the blocks of the documentation's pages as they are written, and compares what they print with what is shown.

``python -m tests.documented PAGE`` runs a page and writes what its console commands print into it, wherever the page
shows something else; read what it wrote, and shorten it by ``…``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from tests import forking

DOCS = Path(__file__).parents[1] / "docs"
HOW_TO = DOCS / "how-to"
FIRST = DOCS / "tutorials" / "data-engineer.md"
HOME = "home of the [first tutorial]"
"""Pages with these words go on in the home that the first tutorial has made."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PAGE_BLOCK = re.compile(r"^```(sh|text|console[ \w]*)\n(.*?)^```$|^<!--(\s*\$ .*?)-->", re.MULTILINE | re.DOTALL)


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
    runs = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=os.environ | {"PATH": _path(command)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        runs.append(Run(command, shown, done.stdout))
    return runs


def passed_own_tests(packages: Path, file: str) -> int:
    """Run the tests of a page's package, with this checkout on the path; return how many passed, if none failed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        cwd=packages,
        env=os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{DOCS.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    return int(passed)


def run_page(page: Path, folder: Path) -> int:
    """Run a page's blocks one after the other in a folder, as a user would; return how many commands there were.

    - ``sh``: a script, which must end well; the ``text`` block behind it is what it prints.
    - ``console``: commands behind ``$``, each followed by what it prints on standard output; one whose last line shows
      ``[ends with 12]`` ends with that code, every other one with 0.
    - ``console background``: a command that stays until the page ends; it has begun when it has printed its first line.
    - An HTML comment of such lines, ``<!-- $ vitalake init --home ward -->``, is run and not shown to readers.

    In what is shown ``…`` stands for any characters of a line, and for any number of lines where it is a whole line.
    """
    steps = _steps(page.read_text())
    with contextlib.ExitStack() as stack:
        for step in steps:
            done = _do(stack, step, folder)
            if done is not None:
                assert done.returncode == step.code, (
                    f"{page.name}:\n{step.command}\n{done.stdout}\n{done.stderr[-3000:]}"
                )
                said = f"{page.name}:\n{step.command}\nprints\n{done.stdout}\nnot\n{step.shown}"
                assert step.kind == "hidden" or shows(step.shown, done.stdout), said
    return len(steps)


def write_page(page: Path, folder: Path) -> None:
    """Run a page, and write into it what its console commands print where it shows something else."""
    text, at = page.read_text(), 0
    with contextlib.ExitStack() as stack:
        for step in _steps(text):
            done = _do(stack, step, folder)
            if step.kind != "console" or done is None:
                continue
            at = text.index(f"$ {step.command}\n", at) + len(step.command) + 3
            if done.returncode != step.code or not shows(step.shown, done.stdout):
                now = "".join(f"{line}\n" for line in _lines(_VARIES.sub("…", done.stdout))) + (
                    f"[ends with {done.returncode}]\n" if done.returncode else ""
                )
                assert text.startswith(step.text, at)
                text = text[:at] + now + text[at + len(step.text) :]
                at += len(now)
    page.write_text(text)


class Step(NamedTuple):
    """One thing that a page runs: its kind, the command, what stands below it, and the exit code that is expected."""

    kind: str
    command: str
    text: str
    code: int = 0

    @property
    def shown(self) -> str:
        """What the page says that it prints."""
        return _ENDS.sub("", self.text)


_ENDS = re.compile(r"^\[ends with (\d+)\]\n", re.MULTILINE)
_VARIES = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?[\d.]*(?: UTC|[+-]\d\d:\d\d|Z)?)?"  # dates and times
    r"|[\d,.]+ m?s\b|\b[\d,]+/s\b|\b[0-9a-f]{12,}\b|\bv\d+\.[a-z2-7]{32}\b|(?<=\s)/\S*/"
)


def shows(shown: str, said: str) -> bool:
    """Return whether a page shows what was printed; blanks at the ends of lines do not count."""
    lines = (r"(?:[^\n]*\n)*?" if line.strip() == "…" else _one_line(line) for line in _lines(shown))
    pattern = "".join(lines)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(said))) is not None


def _one_line(line: str) -> str:
    return r"[^\n]*?".join(map(re.escape, line.split("…"))) + "\n"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def _steps(text: str) -> list[Step]:
    """Return what a page runs, in order."""
    steps = []
    blocks = [(found[1] or "hidden", found[2] or found[3]) for found in _PAGE_BLOCK.finditer(text)]
    for place, (kind, block) in enumerate(blocks):
        if kind == "sh":
            follows = blocks[place + 1] if place + 1 < len(blocks) else ("", "")
            steps.append(Step(kind, block, follows[1] if follows[0] == "text" else ""))
        elif kind.startswith("console") or kind == "hidden":
            for part in re.split(r"^\s*\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                code = _ENDS.search(shown)
                steps.append(Step(kind.partition(" ")[2] or kind, command.rstrip(), shown, int(code[1]) if code else 0))
    return steps


def _do(stack: contextlib.ExitStack, step: Step, folder: Path) -> subprocess.CompletedProcess[str] | None:
    """Run one; None: it stays until the page ends."""
    if step.kind == "background":
        _stay(stack, step.command, folder)
        return None
    environment = _environment() | {"PATH": _path(step.command)}
    return subprocess.run(
        ["bash", "-ec", step.command],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


def _path(script: str) -> str:
    """Return the path for a script: of each of our commands the first is run as people run it, all others in a fork."""
    commands = set(_COMMAND.findall(script))
    forks = [forking.program("vitalake", kind="history")] if commands <= _seen else []
    _seen.update(commands)
    return os.pathsep.join(map(str, [*forks, Path(sys.executable).parent, os.environ["PATH"]]))


_COMMAND = re.compile(r"\bvitalake +([a-z-]+)")


def _environment() -> dict[str, str]:
    """Return a user's environment after ``make setup``: the command on the path, and free ports."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VITALAKE_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VITALAKE_OBSERVABILITY__PORT": "0",
        "VITALAKE_SERVING__PORT": "0",
        "COLUMNS": "160",
    }


_seen: set[str] = set()


def _stay(stack: contextlib.ExitStack, command: str, folder: Path) -> None:
    process = subprocess.Popen(
        shlex.split(command),
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline(), f"{command}: it says when it is up"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="vitalake-page-") as name:
        if HOME in Path(sys.argv[1]).read_text():
            run_page(FIRST, Path(name))
        write_page(Path(sys.argv[1]), Path(name))
