"""Starts processes that end when their parent ends, also if it is killed with kill -9, or while they still start."""

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
"""Environment variable with the descriptor of a pipe. Only the parent holds the other end, so it closes when the parent
ends. Polling the parent's process id would miss a parent that ends before the first poll, and costs wake-ups."""

GRACE_SECONDS = 30.0
"""How long a process may take to stop in order after its parent ended. It is killed then, and nothing is lost."""


def python_module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python, without the current directory on the import path.

    A stream can be started from any directory: a file ``hl7.py`` in it must not be imported instead of the library.

    Args:
        name: name of the module.
        arguments: its arguments.
    """
    return [sys.executable, "-P", "-m", name, *arguments]


def start(
    command: Sequence[str], *, stdout: int | IO[bytes] | None, stderr: int | IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a process of ours that ends when this process ends; it must call ``end_with_parent``.

    It gets a session of its own: Ctrl-C reaches only this process, which then stops it in order.

    Args:
        command: the command, which runs this Python.
        stdout: standard output, as subprocess takes it.
        stderr: standard error, as subprocess takes it.
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
    """Send this process SIGTERM when its parent has ended; return whether ``start`` started it.

    A late call misses nothing: a pipe that is closed stays closed.
    """
    descriptor = os.environ.pop(LIFELINE, "")  # removed, because this pipe is not that of our own children
    if descriptor.isdigit():
        threading.Thread(target=_end_after, args=(int(descriptor),), name="lifeline", daemon=True).start()
    return descriptor.isdigit()


def _end_after(lifeline: int) -> None:
    """Wait until the pipe closes, then stop this process: by SIGTERM, and by SIGKILL after the grace period."""
    try:
        while os.read(lifeline, 1):  # nothing is ever written: read returns when the other end closes
            pass
    except OSError:  # the descriptor is not a pipe of ours: it says nothing about the parent
        return
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
