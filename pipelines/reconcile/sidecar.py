"""The attributor beside a stream: a process of its own, which looks every second, once devices are associated at all.

A process of its own, and a nice one: what moves to another patient must not hold up the lane.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from vitalake import logs
from vitalake.errors import VitaLakeError
from vitalake.lake.tables.storage import open_storage
from vitalake.processes import end_with_parent, python_module, start
from vitalake.settings import Settings, load_settings

_log = logging.getLogger(__name__)

DATASET = "observation"
"""Streams of it are looked after; one of associations is not: of two attributors each would overtake the other."""

EVERY_SECONDS = 1.0
LOOK_SECONDS = 5.0
"""How often it is looked whether devices are associated: it needs no process before."""

AGAIN_SECONDS = 10.0
"""Wait after trouble, or where another attributor is at work."""

MOST_AGAIN_SECONDS = 600.0
"""The wait doubles up to here as long as it ends in the same way: damage does not pass by itself."""

STOP_SECONDS = 20.0
NICENESS = 10


class Sidecar:
    """Keeps the attributor's process alive while a stream runs; never two of one stream at once."""

    def __init__(self, config: str, settings: Settings, job: str, *, stderr: IO[bytes] | None = None) -> None:
        self._command = python_module("pipelines.reconcile.sidecar", config)
        self._settings, self._stderr = settings, stderr
        stream = settings.jobs.get(job)  # who names none is told by the preflight
        self._wanted = stream is not None and stream.dataset == DATASET
        self._due, self._wait, self._ended = 0.0, AGAIN_SECONDS, 0
        self._process: subprocess.Popen[bytes] | None = None

    def tick(self, now: float) -> None:
        """Start it if it is due; take note of how it ended."""
        if not self._wanted:
            return
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            self._wait = min(2 * self._wait, MOST_AGAIN_SECONDS) if code == self._ended else AGAIN_SECONDS
            self._due, self._ended = now + self._wait, code
            _log.error("attributor ended, it is started again", extra={"count": code, "seconds": self._wait})
        if now >= self._due:
            self._due = now + LOOK_SECONDS
            if self._is_needed():
                self._process = start(self._command, stdout=subprocess.DEVNULL, stderr=self._stderr)

    def _is_needed(self) -> bool:
        try:
            storage = open_storage(self._settings.lake_uri, self._settings.storage_options)
            return storage.holds_table("restricted/device_association")
        except (OSError, VitaLakeError):
            return False

    def stop(self) -> None:
        """Let it look once more, and end it; what is cut off has changed nothing, and is done by the next one."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            if _waited(process) == 0:
                return
        if self._wanted and self._is_needed():
            _waited(start([*self._command, "--once"], stdout=subprocess.DEVNULL, stderr=self._stderr))


def _waited(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def keep_attributing(settings: Settings, stop: threading.Event, *, every_seconds: float = EVERY_SECONDS) -> None:
    """Look again and again until told to stop, and once more then.

    Raises:
        VitaLakeError: something that does not pass by itself.
    """
    from pipelines.reconcile.reconciler import Attribution, AtWork
    from pipelines.reprocess.writing import Overtaken

    attribution = Attribution(settings)
    said = ""
    try:
        while True:
            last, wait = stop.is_set(), every_seconds
            try:
                report = attribution.run()
            except AtWork:  # of another stream
                wait = AGAIN_SECONDS
            except VitaLakeError as error:
                if last or not (error.transient or isinstance(error, Overtaken)):
                    raise
                wait = AGAIN_SECONDS
                if error.what != said:  # once, and when it changes: not every ten seconds
                    _log.warning("attributor waits", extra={"what": error.what, "where": error.where})
                said = error.what
            else:
                said = ""
                if report.spans:
                    _log.info("attributed", extra={"count": report.rows + report.moved})
            if last:
                return
            stop.wait(wait)
    finally:
        attribution.close()


def main() -> int:
    """Attribute for the home of the arguments until told to end; return the exit code."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="vitalake attributor")
    parser.add_argument("config")
    parser.add_argument("--once", action="store_true")
    given = parser.parse_args()
    os.nice(NICENESS)
    logs.configure()
    logs.silence_failures()
    stop = threading.Event()
    if given.once:
        stop.set()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        keep_attributing(load_settings(Path(given.config)), stop)
    except VitaLakeError as error:
        _log.error("attributor ended", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
