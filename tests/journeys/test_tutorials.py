"""The tutorials' commands are run as they stand, in order, in an empty folder.

The first vitalake command of each kind is started from the PATH; later ones run in a fork of a process that has
imported what they need.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking
from tests.services.waiting import until

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
_BLOCK = re.compile(r"```console( background)?\n(.*?)```", re.DOTALL)


def _commands(text: str) -> list[tuple[str, bool]]:
    return [
        (line[2:], bool(background))
        for background, block in _BLOCK.findall(text)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {name: value for name, value in os.environ.items() if not name.startswith("VITALAKE_")} | {
        "PATH": path,
        "VITALAKE_OBSERVABILITY__PORT": "0",
        "VITALAKE_SERVING__PORT": "0",  # a free one: somebody's demo may have the usual one
    }


_found: set[str] = set()


def _in_a_fork(command: str) -> list[str]:
    """Return the runner of a command; the first vitalake command of each kind runs as a process, as people run it."""
    program, *arguments = shlex.split(command)
    if program != "vitalake" or arguments[0] not in _found:
        _found.add(arguments[0])
        return [program, *arguments]
    return forking.command(program, *arguments, kind="history")


@pytest.mark.parametrize("tutorial", sorted(TUTORIALS.glob("*.md")), ids=lambda path: path.stem)
def test_every_command_of_the_tutorial_works(tutorial: Path, tmp_path: Path) -> None:
    commands = _commands(tutorial.read_text())
    assert len(commands) > 5
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command, background in commands:
            if background:
                process = subprocess.Popen(
                    shlex.split(command),
                    cwd=tmp_path,
                    env=_environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                started.append(process)
                assert process.stdout is not None
                assert process.stdout.readline(), "it says when it is up"
                until(lambda process=process: process.poll() is None, process=process)  # type: ignore[misc]
                continue
            done = subprocess.run(
                _in_a_fork(command), cwd=tmp_path, env=_environment(), capture_output=True, timeout=120, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    finally:
        for process in started:
            process.kill()
            process.wait()
