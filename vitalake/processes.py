"""Processes that end with the one that started them, however that ended: also by kill -9, also while they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import IO

LIFELINE = "VITALAKE_LIFELINE"
"""Names the descriptor of a pipe whose other end only the parent holds: it closes with the parent, and never before.
A look at the parent's id now and then would miss a parent that was gone before the first look, and costs a wake-up."""

GRACE_SECONDS = 30.0
"""How long a process without a parent may take to finish what it holds; nothing is lost by ending it."""


def python_module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python, and imports nothing from the current directory.

    Whoever starts a stream may stand anywhere; a ``hl7.py`` that lies there is not the library.

    Args:
        name: of the module.
        arguments: for it.
    """
    return [sys.executable, "-P", "-m", name, *arguments]


def start(
    command: Sequence[str], *, stdout: int | IO[bytes] | None, stderr: int | IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a process of ours that ends with us, if it calls ``end_with_parent``.

    It has a session of its own: Ctrl-C goes to us, and we end it in order.

    Args:
        command: what to run, of this Python.
        stdout: as subprocess takes it.
        stderr: as subprocess takes it.
    """
    theirs, ours = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=(theirs,),
            env=os.environ | {LIFELINE: str(theirs)},
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    weakref.finalize(process, os.close, ours)
    return process


def end_with_parent() -> bool:
    """Ask this process to stop when its parent is gone, as SIGTERM does; return whether ``start`` has started it.

    Who calls it late misses nothing: the pipe stays closed.
    """
    named = os.environ.pop(LIFELINE, "")  # popped: our own children have other parents
    if named.isdigit():
        threading.Thread(target=_end_after, args=(int(named),), name="lifeline", daemon=True).start()
    return named.isdigit()


def _end_after(lifeline: int) -> None:
    try:
        while os.read(lifeline, 1):  # nothing is ever written: it returns when the other end closes
            pass
    except OSError:  # no such pipe: it cannot tell, so nothing follows from it
        return
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
