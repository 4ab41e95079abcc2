"""A process that works on a lake, for tests that kill or pause it at a named point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.span_samples import begin, open_lake, part, staged_span
from vitalake import clock
from vitalake.crashpoints import passing
from vitalake.lake.compaction import compact

KILLED = -signal.SIGKILL
_ROOT = Path(__file__).parents[2]


def start(folder: Path, *command: object, **environment: str) -> subprocess.Popen[bytes]:
    """Start ``compact TABLE`` or ``span FIRST END`` (decide and add it, rolling forward before) on a lake."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.lake_process", str(folder), *map(str, command)],
        env=os.environ | environment,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
    )


def run(folder: Path, *command: object, **environment: str) -> int:
    """Run it to its end and return its exit code."""
    return start(folder, *command, **environment).wait(60)


def _main(folder: str, verb: str, *arguments: str) -> None:
    lake = open_lake(Path(folder))
    if verb == "compact":
        compact({table.name: table for table in (*lake.tables, lake.spans.table)}[arguments[0]], min_files=2)
    else:
        first, end = map(int, arguments)
        epoch = begin(lake) if first == 0 else lake.spans.begin_epoch(job="vitals", share="0of1")
        lake.roll_forward([part()], since_us=clock.now_us())
        span = staged_span(lake, first, end, epoch=epoch)
        passing("staged")
        lake.spans.decide(span)
        passing("decided")
        lake.add(span)


if __name__ == "__main__":
    _main(*sys.argv[1:])
