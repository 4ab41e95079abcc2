"""Where the command begins: it can be ended from the first moment on, before anything else is imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes as shells give them to processes that a signal ended."""


def run() -> None:
    """Run the command of ``sys.argv`` and exit with its code; entry point of the installed command."""
    # While the command itself is imported there is nothing to finish, and an exception in the middle of an import of
    # an extension may come out as another one, with a traceback.
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
    except KeyboardInterrupt:  # before or after what the command itself answers
        code = INTERRUPTED
    finally:
        _end_at_once()  # what it had open is closed
    sys.exit(code)


def _end_at_once() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that what is open is closed; commands that have more to finish put their own in place."""
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    run()
