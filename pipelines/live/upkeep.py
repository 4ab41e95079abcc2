"""The upkeep of a running lane's tables: compacts, vacuums and sweeps from time to time, in a process of its own.

Without upkeep the cost of a commit doubles within an hour for a lane that commits every second, and a restart reads
every file of the day. The process runs with low priority: sorting a million rows must not delay the lane.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vitalake import logs
from vitalake.errors import VitaLakeError
from vitalake.processes import end_with_parent, python_module, start

if TYPE_CHECKING:
    from vitalake.lake.commits.lake import Lake
    from vitalake.settings import Settings

_log = logging.getLogger(__name__)

FIRST_SECONDS = 120.0
"""When the first upkeep starts at the latest: a lane that is often started again would otherwise never have one."""

NICENESS = 10
"""The priority of its process, below that of the lane."""


class Upkeep:
    """Starts the upkeep's process when it is due, and never two at once."""

    def __init__(
        self, config: str, job: str, *, workers: int, every_seconds: float, now: float, stderr: IO[bytes] | None = None
    ) -> None:
        self._command = python_module("pipelines.live.upkeep", config, job, str(workers))
        self._every, self._stderr = every_seconds, stderr
        self._due = now + min(FIRST_SECONDS, every_seconds)
        self._process: subprocess.Popen[bytes] | None = None

    def tick(self, now: float) -> None:
        """Start the process if it is due; log if the last one failed."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            self._due = now + self._every
            if code:
                _log.error("upkeep failed, the lane goes on", extra={"count": code, "seconds": self._every})
        if self._every and now >= self._due:
            self._process = start(self._command, stdout=subprocess.DEVNULL, stderr=self._stderr)

    def stop(self) -> None:
        """Kill the process. An interrupted rewrite has changed nothing; the next sweep deletes its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> int:
    """Run the upkeep once, for the home and job of the arguments; return the exit code."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="vitalake upkeep")
    parser.add_argument("config")
    parser.add_argument("job")
    parser.add_argument("workers", type=int)
    given = parser.parse_args()
    os.nice(NICENESS)
    logs.configure()
    logs.silence_failures()
    from governance.belonging import admit
    from vitalake.home import Home
    from vitalake.lake.maintenance.run import maintain
    from vitalake.lake.maintenance.sweep import dead_shards, sweep
    from vitalake.settings import load_settings

    settings = load_settings(Path(given.config))
    stream = settings.jobs[given.job]

    def opened() -> Lake:
        return Home(settings).lake(stream.dataset)

    try:
        if not opened().storage.holds_table("spans"):
            return 0
        admit(settings)
        lake = opened()
        for done in maintain(lake, lake.present().values()):
            _log.info("table kept up", extra={"table": done["table"], "count": done["files_before"]})
        _scrub(settings, opened())
        shards = dead_shards(opened(), given.job, workers=given.workers)
        swept = sweep(opened(), given.job, shards=shards, lookback_seconds=stream.lookback_seconds)
        _log.info("swept", extra={"job": given.job, "count": sum(swept.deleted.values())})
        for other in ("attribution", "devices"):  # killed processes of these jobs leave staged files behind
            sweep(opened(), other)
    except VitaLakeError as error:
        _log.error("upkeep ended", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
        return error.exit_code
    return 0


def _scrub(settings: Settings, lake: Lake) -> None:
    """Check a slice of the files; repair damaged ones where that needs no more than to rewrite the file's own day."""
    from pipelines.republish.mend import NAMED, mend
    from vitalake.lake.maintenance.scrub import SLICE_BYTES, scrub

    left = SLICE_BYTES
    for table in lake.present().values():
        found = scrub(table, most_bytes=left)
        left = max(0, left - found.bytes)
        _log.info("scrubbed", extra={"table": table.name, "count": found.files})
        if found.damaged:
            for done in mend(settings, table, found.damaged, whole=False):
                said = {
                    "table": table.name, "count": done.rows, "what": done.why or f"made again ({done.how})",
                    "where": f"days {', '.join(done.days)}; spans {', '.join(done.spans[:NAMED])}",
                    "remedy": "" if done.how else "Run 'vitalake lake repair'.",
                }  # fmt: skip
                _log.error("files were damaged", extra=said)


if __name__ == "__main__":
    sys.exit(main())
