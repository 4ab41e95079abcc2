"""A process that rewrites a home's lake, for tests that kill it at a named point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests import forking

KILLED = -signal.SIGKILL
PIECE_ROWS = 21
"""Small pieces of work, so that sixty rows are three of them."""
_ROOT = Path(__file__).parents[2]


def run(home: Path, *command: str, **environment: str) -> int:
    """Run ``republish DATASET``, ``retain``, ``repair`` or ``rekey`` to its end and return its exit code."""
    process = subprocess.Popen(
        forking.command("tests.services.rewrite_process", str(home), *command),
        env=os.environ | environment,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
    )
    return process.wait(120)


def _main(home: str, verb: str, *more: str) -> None:
    from pipelines.republish.rekey import rekey
    from pipelines.republish.repair import repair
    from pipelines.republish.republish import republish
    from pipelines.republish.retention import retain
    from vitalake.lake.maintenance import replacement as swap
    from vitalake.settings import load_settings

    swap.PIECE_ROWS = PIECE_ROWS
    settings = load_settings(Path(home))
    if verb == "republish":
        republish(settings, more[0])
    elif verb == "repair":
        repair(settings)
    elif verb == "retain":
        list(retain(settings, days=1))
    else:
        rekey(settings)


if __name__ == "__main__":
    _main(*sys.argv[1:])
