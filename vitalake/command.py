"""Entry point of the command: signals end it from the first moment on, before anything else is imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes as shells give them to processes that a signal ended."""


def run() -> None:
    """Run the command of ``sys.argv`` and exit with its code; entry point of the installed command."""
    # During the imports nothing is open that must be closed. An exception that a signal raises in the middle of the
    # import of an extension module could come out as another one, with a traceback.
    _end_at_once()
    from vitalake.processes import end_with_parent

    end_with_parent()
    from vitalake.logs import silence, silence_failures

    silence()
    silence_failures()
    from vitalake.cli.app import main

    try:
        signal.signal(signal.SIGTERM, _terminate)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = main()
    except KeyboardInterrupt:  # outside of main(), which returns INTERRUPTED itself
        code = INTERRUPTED
    finally:
        _end_at_once()  # all that the command had open is closed by now
    sys.exit(code)


def _end_at_once() -> None:
    """Let Ctrl-C and SIGTERM end the process at once, without an exception."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """End by an exception, as Ctrl-C does, so that files are closed; some commands set handlers of their own."""
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    run()
