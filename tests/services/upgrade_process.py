"""A process whose children upgrade a home's lake and are killed, each at the next of some points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import forking

KILLED = -9
_ROOT = Path(__file__).parents[2]


def killed_at(home: Path, *points: str) -> list[int]:
    """Upgrade a home once for each point; return how each run ended."""
    command = forking.command("tests.services.upgrade_process", str(home), *points)
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=True)
    return [int(code) for code in done.stdout.split()]


def _main(home: str, *points: str) -> None:
    from pipelines.republish.upgrade import upgrade
    from vitalake.settings import load_settings

    # Imported once, for all of them: nothing here has started a thread before it forks.
    settings = load_settings(Path(home))
    for point in points:
        child = os.fork()
        if not child:
            os.environ["VITALAKE_CRASH_AT"] = point
            upgrade(settings)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
