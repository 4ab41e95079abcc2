"""Waiting for something to become true: polling to a deadline."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable


def until(true: Callable[[], object], *, seconds: float = 40.0, process: subprocess.Popen[bytes] | None = None) -> None:
    """Return as soon as ``true`` is; fail at the deadline, or when ``process`` has ended before."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        if process is not None and process.poll() is not None:
            said = process.stderr.read().decode()[-2000:] if process.stderr else ""
            raise AssertionError(f"the process ended ({process.returncode}) before it became true: {said}")
        pause.wait(0.05)
