"""A process that works on a lake, for tests that kill or pause it at a named point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests import forking
from tests.unit.vitalake.lake.span_samples import JOB, SHARD, open_lake, part, staged_span
from vitalake import clock
from vitalake.failpoints import failpoint
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.compaction import compact, put_into_buckets
from vitalake.lake.maintenance.deletion import drop_rows

KILLED = -signal.SIGKILL
SPAN = 4
_ROOT = Path(__file__).parents[4]


_MODULE = "tests.unit.vitalake.lake.lake_process"


def start(folder: Path, *command: object, **environment: str) -> subprocess.Popen[bytes]:
    """Start ``compact TABLE``, ``bucket TABLE COUNT``, ``drop TABLE PATIENT``, or ``stream END``: spans up to there."""
    return _begin([sys.executable, "-m", _MODULE, str(folder), *map(str, command)], environment)


def _begin(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=os.environ | environment,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
    )


def run(folder: Path, *command: object, **environment: str) -> int:
    """Run it to its end and return its exit code."""
    return _begin(forking.command(_MODULE, str(folder), *map(str, command)), environment).wait(60)


def _main(folder: str, verb: str, argument: str, *more: str) -> None:
    lake = open_lake(Path(folder))
    if verb == "stream":
        _stream(lake, int(argument))
        return
    table = {table.name: table for table in (*lake.tables, lake.spans.table)}[argument]
    if verb == "compact":
        compact(table, min_files=2)
    elif verb == "bucket":
        put_into_buckets(table, int(more[0]), closed_before="9999-12-31")
    else:
        drop_rows(table, "patient_id", more[0], commit_rows=1)


def _stream(lake: Lake, end: int) -> None:
    """Do what a lane does: begin where the lake says, roll forward, then span after span."""
    mine, dataset = part(), lake.dataset.name
    epoch = lake.spans.begin_epoch(job=JOB, shard=SHARD)
    lake.roll_forward([mine], since_us=clock.now_us())
    position = lake.spans.positions(dataset, [mine])[mine]
    if position is None:
        lake.spans.begin_at(dataset, {mine: 0})
    for first in range(position or 0, end, SPAN):
        failpoint("before-stage")
        span = staged_span(lake, first, first + SPAN, epoch=epoch)
        failpoint("staged")
        lake.spans.decide(span)
        failpoint("decided")
        lake.add(span)


if __name__ == "__main__":
    _main(*sys.argv[1:])
