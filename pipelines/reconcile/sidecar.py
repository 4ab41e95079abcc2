"""Runs the attributor beside a stream, in a process of its own that makes a pass every second.

The process starts once there is an association table. It has a lower priority than the stream, because moving values to
another patient must not delay the lane.
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
"""Only streams of this dataset get an attributor. A stream of associations gets none: of two attributors each would
overtake the other."""

EVERY_SECONDS = 1.0
"""How often the attributor makes a pass."""

LOOK_SECONDS = 5.0
"""How often the sidecar looks for an association table while there is none; no process is needed before."""

RETRY_SECONDS = 10.0
"""Wait after a failure, or while another attributor is running."""

MAX_RETRY_SECONDS = 600.0
"""Limit of the exponential back-off: the wait doubles as long as the process ends with the same exit code, because
damage does not pass by itself."""

STOP_SECONDS = 20.0
"""How long a process has to end by itself before it is killed."""

NICENESS = 10


class Sidecar:
    """Keeps the attributor's process running while a stream runs; never two for one stream at once."""

    def __init__(self, config: str, settings: Settings, job: str, *, stderr: IO[bytes] | None = None) -> None:
        self._command = python_module("pipelines.reconcile.sidecar", config)
        self._settings, self._stderr = settings, stderr
        stream = settings.jobs.get(job)  # None if there is no such job: the preflight reports that
        self._serves_dataset = stream is not None and stream.dataset == DATASET
        self._due, self._wait, self._ended = 0.0, RETRY_SECONDS, 0
        self._process: subprocess.Popen[bytes] | None = None

    def tick(self, now: float) -> None:
        """Start the process if it is due, and note how it ended; called regularly."""
        if not self._serves_dataset:
            return
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            self._wait = min(2 * self._wait, MAX_RETRY_SECONDS) if code == self._ended else RETRY_SECONDS
            self._due, self._ended = now + self._wait, code
            _log.error("attributor ended and will be started again", extra={"count": code, "seconds": self._wait})
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
        """Let the attributor make a last pass, and end it.

        A pass that is killed has changed nothing; the next attributor makes it.
        """
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            if _wait_or_kill(process) == 0:
                return
        if self._serves_dataset and self._is_needed():
            _wait_or_kill(start([*self._command, "--once"], stdout=subprocess.DEVNULL, stderr=self._stderr))


def _wait_or_kill(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def keep_attributing(settings: Settings, stop: threading.Event, *, every_seconds: float = EVERY_SECONDS) -> None:
    """Make passes until ``stop`` is set, and one more after that.

    Raises:
        VitaLakeError: a failure that does not pass by itself.
    """
    from pipelines.reconcile.reconciler import Attribution, AtWork
    from pipelines.reprocess.writing import Overtaken

    attribution = Attribution(settings)
    last_warning = ""
    try:
        while True:
            last, wait = stop.is_set(), every_seconds
            try:
                report = attribution.run()
            except AtWork:  # the attributor of another stream
                wait = RETRY_SECONDS
            except VitaLakeError as error:
                if last or not (error.transient or isinstance(error, Overtaken)):
                    raise
                wait = RETRY_SECONDS
                if error.what != last_warning:  # logged once and when it changes, not at every retry
                    _log.warning("attributor waits", extra={"what": error.what, "where": error.where})
                last_warning = error.what
            else:
                last_warning = ""
                if report.spans:
                    _log.info("attributed", extra={"count": report.rows + report.moved})
            if last:
                return
            stop.wait(wait)
    finally:
        attribution.close()


def main() -> int:
    """Attribute for the home given as argument until a signal ends the process; return the exit code."""
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
