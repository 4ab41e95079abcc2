"""Commands of ours run in forks of a process that has imported everything: 0.1 s instead of 1 s or more of imports.

``command`` gives what ``subprocess`` is to run instead of ``python -m``. It is a process of its own, with the output,
exit code and end by a signal of the fork. Killed from outside it ends before its fork does, by some milliseconds: who
kills a process by ``kill``, or measures how it starts, runs ``python -m``.
"""

from __future__ import annotations

import atexit
import shlex
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

_SEND = Path(__file__).with_name("send.py")
_START_SECONDS = 60.0
_lock = threading.Lock()
_servers: dict[str, str] = {}
"""Kind of server → path of its socket, in this process."""


def command(module: str, *arguments: str, kind: str = "command") -> list[str]:
    """Return the command that runs a module as ``python -m`` does, in a fork.

    Args:
        module: such as ``vitalake``.
        arguments: for it.
        kind: of the server, by what it has imported; see serve.py.
    """
    return [sys.executable, "-I", "-S", str(_SEND), _server(kind), module, *arguments]


@cache
def program(name: str, *, kind: str = "command") -> Path:
    """Return a folder with a program of that name for a shell's path: it runs the module of that name in a fork."""
    folder = Path(_server(kind)).with_name(f"{kind}-programs")
    folder.mkdir()
    path = folder / name
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command(name, kind=kind))} "$@"\n')
    path.chmod(0o700)
    return folder


def _server(kind: str) -> str:
    with _lock:
        if kind not in _servers:
            _servers[kind] = _start(kind)
    return _servers[kind]


def _start(kind: str) -> str:
    folder = tempfile.TemporaryDirectory(prefix="vitalake-forks-")
    path = f"{folder.name}/{kind}"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forking.serve", path, kind],
        stdin=subprocess.PIPE,  # it ends when this closes, however we end
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )

    def stop() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
    assert server.stdout is not None
    timer = threading.Timer(_START_SECONDS, server.kill)
    timer.start()
    ready = server.stdout.readline()
    timer.cancel()
    assert ready == b"ready\n", f"the server of forks ended with {server.wait()}"
    return path
