"""Starts one worker process per shard, starts it again when it dies, and reports the state of all workers."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Literal

import msgspec

from pipelines.core.kafka import Shard
from pipelines.live.lane import StreamOptions
from pipelines.live.status import TRANSIENT, StatusLine
from vitalake.lake.commits.latency import merge, quantile
from vitalake.lake.commits.span import Counts
from vitalake.notifications import Tally
from vitalake.processes import python_module, start

_log = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before a worker is started again, after its first, second … failure in a row."""

HEALTHY_SECONDS = 60.0
"""When a worker has run for so long, the next failure is its first one again."""

TRIAL_WAITS = 2
"""How many times its last wait a worker that ended again and again has to run until the lane goes on. One that ends
twice goes on as soon as it reads (2 s); after six times it takes HEALTHY_SECONDS, from which on the next failure is its
first one again."""

MOST_CRASHES = 6
"""Crashes in a row, not counting transient problems and kills, after which the cause counts as a bug."""

CONFIGURATION_SECONDS = 5.0
"""Wait before a worker with wrong settings, rules or keys is started again, while somebody corrects them."""

LAST_LINES_SECONDS = 5.0
"""Wait for the rest of the output of a worker that has ended; its end of the pipe is closed already."""

STOP_SECONDS = 30.0
"""How long a worker has to commit what it holds before it is killed."""

_LINE = msgspec.json.Decoder(StatusLine)


@dataclass(slots=True)
class Worker:
    """One shard's process, and what it reported.

    Attributes:
        line: its newest status line.
        before: what the earlier processes of the shard have counted; the same goes for the other fields ``…_before``.
        last: the line in which the process reported why it ends.
        opened: whether any process of the shard has begun to read.
        crashes: unexpected errors in a row; transient problems and kills between them do not count.
        unexplained: ends in a row for which no process gave a reason: by a signal, or by an unexpected error.
        waits_for: why the process before ended, until one reads again, or for good; empty: nothing is wrong.
        trial_seconds: how long a process has to run until it no longer waits for this, although it reads before.
        logged: the reason that was logged last; empty once a process has decided a span since.
        logged_at: when it was logged, by time.monotonic().
    """

    shard: Shard
    process: subprocess.Popen[bytes] | None = None
    line: StatusLine | None = None
    before: Counts = field(default_factory=Counts)
    rejected_before: Counter[str] = field(default_factory=Counter)
    latency_before: dict[int, int] = field(default_factory=dict)
    spans_before: int = 0
    started: float = 0.0
    restarts: int = 0
    failures: int = 0
    next_start: float = 0.0
    listener: threading.Thread | None = None
    last: StatusLine | None = None
    opened: bool = False
    crashes: int = 0
    unexplained: int = 0
    waits_for: str = ""
    trial_seconds: float = 0.0
    logged: str = ""
    logged_at: float = 0.0
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The state of all workers together, as the terminal view, the metrics and the health endpoint show it."""

    state: Literal["starting", "running", "paused", "stopped"]
    reasons: tuple[str, ...]
    counts: Counts
    rejected_for: dict[str, int]
    spans: int
    restarts: int
    lag: dict[str, int]
    latency: dict[int, int]
    last_commit_us: int
    rss_bytes: int

    @property
    def tally(self) -> Tally:
        """Return what became of the messages and rows, for notification rules."""
        counts = self.counts
        rows, rejected = counts.undecodable + counts.rows, counts.undecodable + counts.rejected
        return Tally(counts.messages, rows, rejected, counts.held, self.rejected_for)

    def latency_ms(self, q: float) -> float | None:
        """Return a quantile of the time from the broker's timestamp to the decision, in ms; None before the first."""
        return quantile(self.latency, q) if self.latency else None


class Supervisor:
    """Keeps the workers of one job alive."""

    def __init__(
        self, config: str, job: str, *, workers: int, options: StreamOptions, stderr: IO[bytes] | None = None
    ) -> None:
        self._config, self._job, self._options, self._stderr = config, job, options, stderr
        self.workers = [Worker(Shard(i, workers)) for i in range(workers)]
        self.stopping = False

    # -- processes -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all workers."""
        for worker in self.workers:
            self._spawn(worker)

    def _spawn(self, worker: Worker) -> None:
        options = self._options
        command = python_module("pipelines.live.worker_main", self._config, self._job, str(worker.shard))
        command += ["--from", str(options.start)]
        command += ["--accept-loss"] if options.accept_loss else []
        command += ["--until-idle", str(options.until_idle_seconds)] if options.until_idle_seconds else []
        worker.started = time.monotonic()
        worker.process = start(command, stdout=subprocess.PIPE, stderr=self._stderr)
        worker.last = None
        worker.listener = threading.Thread(target=self._listen, args=(worker, worker.process), daemon=True)
        worker.listener.start()

    @staticmethod
    def _listen(worker: Worker, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            try:
                line = _LINE.decode(raw)
            except msgspec.DecodeError:  # a library has printed, or the process was killed while it wrote a line
                continue
            if worker.process is not process:
                continue
            if line.ended_for:
                worker.last = line
                continue
            worker.line = line
            if line.state != "starting":
                worker.opened = True
                if time.monotonic() - worker.started >= worker.trial_seconds:
                    worker.waits_for = ""

    def tick(self) -> int | None:
        """Start ended workers again where it helps; return the exit code when all have ended, None while they run."""
        now = time.monotonic()
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is not None:
                self._ended(worker, worker.process.returncode, now)
            elif worker.process is None and worker.exit_code is None and now >= worker.next_start:
                worker.restarts += 1
                self._spawn(worker)
        failed = [w.exit_code for w in self.workers if w.exit_code]
        if failed and not self.stopping:
            self.stop()
        if all(w.exit_code is not None for w in self.workers):
            return failed[0] if failed else 0
        return None

    def _ended(self, worker: Worker, code: int, now: float) -> None:
        if worker.listener is not None:
            worker.listener.join(LAST_LINES_SECONDS)
        worked = worker.line is not None and worker.line.spans > 0
        if worker.line is not None and worker.line.state == "paused":  # nothing has read since
            worker.waits_for = worker.waits_for or worker.line.reason
        self._keep_counts(worker)
        worker.process = None
        if now - worker.started > HEALTHY_SECONDS:
            worker.failures = worker.crashes = worker.unexplained = 0
        if worked:
            worker.logged = ""
        if self.stopping or code == 0:
            worker.exit_code, worker.waits_for = code if code > 0 and code != TRANSIENT else 0, ""
            return
        last = worker.last or StatusLine(str(worker.shard))
        # A configuration that is wrong from the start ends the stream: its user is still there to read the error.
        corrected = last.ended_for == "configuration" and worker.opened
        worker.failures += 1
        worker.crashes += code == 1
        for_good = not (code == TRANSIENT or code < 0 or corrected) and (code != 1 or worker.crashes >= MOST_CRASHES)
        if for_good or (corrected and self._waited_enough(worker, now)):
            worker.exit_code = code
            worker.waits_for = _reason(last) or f"Worker {worker.shard} failed, exit code {code}; the log has more"
            _log.error("lane ended", extra=_why(worker, last))
            return
        wait = BACKOFF_SECONDS[min(worker.failures, len(BACKOFF_SECONDS)) - 1]
        worker.next_start = now + (CONFIGURATION_SECONDS if corrected else wait)
        if last.ended_for:
            self._wait_for_cause(worker, last, now, wait=wait, corrected=corrected)
        else:
            self._wait_after_unexplained(worker, code, wait=wait)

    @staticmethod
    def _wait_for_cause(worker: Worker, last: StatusLine, now: float, *, wait: float, corrected: bool) -> None:
        """Note the problem that a worker has named; log it if it was not the one logged last."""
        worker.unexplained, worker.trial_seconds = 0, 0.0
        until = "goes on when it is corrected" if corrected else "goes on by itself"
        worker.waits_for = f"{_reason(last)}; waiting, {until}"
        if worker.waits_for != worker.logged:
            _log.warning("worker ended, starting again", extra={**_why(worker, last), "seconds": wait})
            worker.logged_at = now
        worker.logged = worker.waits_for

    @staticmethod
    def _wait_after_unexplained(worker: Worker, code: int, *, wait: float) -> None:
        """Note and log that a worker has ended without a reason; from the second time in a row on, the lane waits.

        A worker that begins to read and is killed each time (out of memory, at the same messages) would wait and go on
        by turns. So the more often it has ended, the longer the next process has to run until the lane goes on.
        """
        worker.unexplained, worker.trial_seconds, worker.logged = worker.unexplained + 1, 0.0, ""
        what = f"Worker {worker.shard} has ended {_how_ended(code)}"
        if worker.unexplained > 1:
            times = f"{worker.unexplained} times in a row, the last time"
            what = f"Worker {worker.shard} has ended {times} {_how_ended(code)}; starting again"
            worker.waits_for, worker.trial_seconds = what, min(HEALTHY_SECONDS, TRIAL_WAITS * wait)
        extra = {"shard": str(worker.shard), "what": what, "seconds": wait}
        _log.warning("worker ended, starting again", extra=extra)

    def _waited_enough(self, worker: Worker, now: float) -> bool:
        """Return whether a worker has waited for a corrected configuration as long as ``--until-idle`` allows."""
        idle = self._options.until_idle_seconds
        return idle is not None and bool(worker.logged) and now - worker.logged_at >= idle

    def _keep_counts(self, worker: Worker) -> None:
        if worker.line is not None:
            worker.before.add(worker.line.counts)
            worker.rejected_before.update(worker.line.rejected_for)
            worker.latency_before = merge(worker.latency_before, worker.line.latency)
            worker.spans_before += worker.line.spans
            worker.line = msgspec.structs.replace(
                worker.line,
                counts=Counts(),
                rejected_for={},
                latency={},
                spans=0,
                state="starting",
                reason="",
                rss_bytes=0,
            )

    def stop(self) -> None:
        """Ask all workers to commit what they hold and end."""
        self.stopping = True
        for worker in self.workers:
            if worker.process is not None:
                worker.process.terminate()
            elif worker.exit_code is None:
                worker.exit_code, worker.waits_for = 0, ""

    def stop_and_wait(self) -> int:
        """Stop all workers and return the exit code. One that does not end in time is killed; nothing is lost then."""
        self.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self.workers:
            if worker.process is not None:
                try:
                    worker.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    worker.process.kill()
                    worker.process.wait()
        return self.tick() or 0

    # -- what they report ----------------------------------------------------------------------------------------

    def view(self) -> View:
        """Return the state of all workers together."""
        counts, rejected_for = Counts(), Counter[str]()
        latency: dict[int, int] = {}
        lag: dict[str, int] = {}
        spans = last = rss = 0
        states, reasons = [], []
        for worker in self.workers:
            counts.add(worker.before)
            rejected_for.update(worker.rejected_before)
            latency = merge(latency, worker.latency_before)
            spans += worker.spans_before
            line = worker.line
            now = "paused" if worker.waits_for else line.state if line else "starting"
            states.append("stopped" if worker.exit_code is not None else now)
            reasons += [why for why in (worker.waits_for, line.reason if line else "") if why]
            if line is None:
                continue
            counts.add(line.counts)
            rejected_for.update(line.rejected_for)
            latency = merge(latency, line.latency)
            lag |= line.lag
            spans += line.spans
            last = max(last, line.last_commit_us)
            rss += line.rss_bytes
        order: tuple[Literal["paused", "starting", "running", "stopped"], ...] = (
            "paused", "starting", "running", "stopped",
        )  # fmt: skip
        state = next(name for name in order if name in states or name == "stopped")
        return View(
            state,
            tuple(reasons),
            counts,
            dict(rejected_for),
            spans,
            sum(w.restarts for w in self.workers),
            lag,
            latency,
            last,
            rss,
        )


def _reason(last: StatusLine) -> str:
    """Return why a worker has ended, and where the problem is; empty if it did not say."""
    return f"{last.reason} ({last.where})" if last.where else last.reason


def _how_ended(code: int) -> str:
    """Return how a process ended: by which signal, or with which exit code."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"by signal {-code}"


def _why(worker: Worker, last: StatusLine) -> dict[str, str]:
    """Return the fields of a log line about a worker that has ended."""
    why = {"what": last.reason, "where": last.where, "remedy": last.remedy} if last.ended_for else {}
    return {"shard": str(worker.shard), **why}


def worker_pids(supervisor: Supervisor) -> list[int]:
    """Return the process ids of the running workers; for tests that kill them."""
    return [w.process.pid for w in supervisor.workers if w.process is not None and w.process.poll() is None]
