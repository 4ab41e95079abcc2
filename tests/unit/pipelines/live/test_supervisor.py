"""What a supervisor makes of a worker that has ended: again, wait for a correction, or the end of the stream."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from governance.audit.records import AuditBroken
from governance.errors import RuleError
from pipelines.live.lane import StreamOptions
from pipelines.live.status import TRANSIENT, StatusLine
from pipelines.live.supervisor import CONFIGURATION_SECONDS, HEALTHY_SECONDS, MOST_CRASHES, Supervisor, Worker
from pipelines.live.worker import last_line
from vitalake.errors import OutOfReach, PrivacyError, ServiceUnavailable, SettingsError, VitaLakeError
from vitalake.lake.tables.digests import Damaged
from vitalake.sqlite import DatabaseDamaged

HEAL = [SettingsError, RuleError, OutOfReach]
NEVER = [AuditBroken, PrivacyError, Damaged, DatabaseDamaged]


def ended(worker: Worker, supervisor: Supervisor, kind: type[VitaLakeError], *, now: float, spans: int = 0) -> None:
    """Let a worker that had begun to read end with such an error."""
    error = kind("Something", where="somewhere", remedy="Do it.")
    worker.opened, worker.last = True, msgspec.json.decode(last_line("0of1", error), type=StatusLine)
    worker.line = StatusLine("0of1", spans=spans)
    worker.started, worker.listener = now, None
    supervisor._ended(worker, TRANSIENT if error.transient else error.exit_code, now)


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor("no.yaml", "vitals", workers=1, options=StreamOptions())


@pytest.mark.parametrize("kind", NEVER)
def test_what_no_waiting_heals_ends_the_stream_with_its_code(
    supervisor: Supervisor, kind: type[VitaLakeError], caplog: pytest.LogCaptureFixture
) -> None:
    """A stream on a cut audit chain began again for ever."""
    (worker,) = supervisor.workers
    ended(worker, supervisor, kind, now=0.0)
    assert worker.exit_code == kind.exit_code
    assert [record.getMessage() for record in caplog.records] == ["lane ended"]
    assert (supervisor.view().state, supervisor.view().reasons) == ("stopped", ("Something (somewhere)",))


def test_workers_that_are_stopped_because_another_one_failed_are_no_reason_for_the_end() -> None:
    supervisor = Supervisor("no.yaml", "vitals", workers=2, options=StreamOptions())
    waiting, failed = supervisor.workers
    ended(waiting, supervisor, ServiceUnavailable, now=0.0)
    assert "waiting, goes on by itself" in supervisor.view().reasons[0]
    ended(failed, supervisor, AuditBroken, now=0.0)
    supervisor.stop()
    assert supervisor.tick() == AuditBroken.exit_code
    assert supervisor.view().reasons == ("Something (somewhere)",)


def test_a_worker_that_ends_for_good_without_a_word_is_named(supervisor: Supervisor) -> None:
    (worker,) = supervisor.workers
    worker.crashes = MOST_CRASHES - 1
    supervisor._ended(worker, 1, 0.0)
    assert supervisor.view().reasons == ("Worker 0of1 failed, exit code 1; the log has more",)


@pytest.mark.parametrize("kind", [*HEAL, ServiceUnavailable])
def test_what_can_be_corrected_is_waited_for_and_said_once_until_something_was_decided(
    supervisor: Supervisor, kind: type[VitaLakeError], caplog: pytest.LogCaptureFixture
) -> None:
    (worker,), now = supervisor.workers, 0.0
    for _ in range(3):
        ended(worker, supervisor, kind, now=now)
        worker.waits_for = ""  # it has read again, and meets the same
        now += CONFIGURATION_SECONDS
    assert worker.exit_code is None
    assert len(caplog.records) == 1
    ended(worker, supervisor, kind, now=now, spans=1)
    assert len(caplog.records) == 2, "it was over, and is there again"


@pytest.mark.parametrize("kind", HEAL)
def test_a_stream_that_ends_when_idle_waits_for_a_correction_no_longer_than_that(
    kind: type[VitaLakeError], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor("no.yaml", "vitals", workers=1, options=StreamOptions(until_idle_seconds=12.0))
    (worker,) = supervisor.workers
    for now in (0.0, 5.0, 10.0):
        ended(worker, supervisor, kind, now=now)
        assert worker.exit_code is None
    ended(worker, supervisor, kind, now=15.0)
    assert worker.exit_code == kind.exit_code
    last = caplog.records[-1]
    assert (last.levelno, last.getMessage()) == (logging.ERROR, "lane ended")
    assert vars(last)["what"] == "Something", "and with the reason"


def kill(supervisor: Supervisor, *, by: signal.Signals = signal.SIGKILL) -> None:
    """Kill the running process of the first worker, let the supervisor notice, and let it start the next one."""
    worker = supervisor.workers[0]
    assert worker.process is not None
    worker.process.send_signal(by)
    worker.process.wait()
    assert supervisor.tick() is None
    worker.next_start = 0.0  # its wait is over
    assert supervisor.tick() is None


def report(worker: Worker, *lines: StatusLine, age: float) -> None:
    """Let a process of the worker, started so many seconds ago, report these lines."""
    printed = "\n".join(msgspec.json.encode(line).decode() for line in lines)
    with subprocess.Popen([sys.executable, "-c", f"print({printed!r})"], stdout=subprocess.PIPE) as process:
        worker.process, worker.started = process, time.monotonic() - age
        Supervisor._listen(worker, process)
    worker.process = None


@pytest.fixture
def started(supervisor: Supervisor) -> Iterator[Supervisor]:
    """A supervisor whose worker's process has been started; it is killed before it has done anything."""
    supervisor.start()
    yield supervisor
    supervisor.stop_and_wait()


def test_a_worker_that_is_killed_again_and_again_waits_and_says_by_what(
    started: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """Its state was "starting" for ever, without a notification."""
    kill(started)
    assert (started.view().state, started.view().reasons) == ("starting", ()), "one kill is no reason to wait"
    kill(started)
    assert started.view().state == "paused", "also while it is started again"
    assert started.view().reasons == (
        "Worker 0of1 has ended 2 times in a row, the last time by SIGKILL; starting again",
    )
    kill(started, by=signal.SIGSEGV)
    assert "3 times in a row, the last time by SIGSEGV" in started.view().reasons[0]
    assert [vars(record)["what"].partition(" has ended ")[2] for record in caplog.records] == [
        "by SIGKILL",
        "2 times in a row, the last time by SIGKILL; starting again",
        "3 times in a row, the last time by SIGSEGV; starting again",
    ]


def test_a_signal_without_a_name_is_given_by_its_number(supervisor: Supervisor) -> None:
    for _ in range(2):
        supervisor._ended(supervisor.workers[0], -(signal.SIGRTMIN + 1), 0.0)
    assert f"by signal {signal.SIGRTMIN + 1};" in supervisor.view().reasons[0]


def test_a_worker_that_fails_again_and_again_waits_until_it_ends_for_good(supervisor: Supervisor) -> None:
    (worker,), states = supervisor.workers, []
    for _ in range(MOST_CRASHES):
        supervisor._ended(worker, 1, 0.0)
        states.append(supervisor.view().state)
        if worker.exit_code is None:
            assert worker.failures == 1 or "with exit code 1; starting again" in supervisor.view().reasons[0]
    assert states == ["starting", *["paused"] * (MOST_CRASHES - 2), "stopped"]


@pytest.mark.parametrize("code", [TRANSIENT, -signal.SIGKILL])
def test_problems_that_pass_and_kills_do_not_count_as_crashes(supervisor: Supervisor, code: int) -> None:
    """After a long outage of a service the first crash ended the stream for good."""
    worker = supervisor.workers[0]
    for _ in range(2 * MOST_CRASHES):
        supervisor._ended(worker, code, 0.0)
    for _ in range(MOST_CRASHES - 1):
        supervisor._ended(worker, 1, 0.0)
        assert worker.exit_code is None
    supervisor._ended(worker, 1, 0.0)
    assert worker.exit_code == 1


def test_a_worker_that_was_killed_twice_goes_on_when_it_reads(started: Supervisor) -> None:
    for _ in range(2):
        kill(started)
    worker = started.workers[0]
    assert worker.process is not None
    worker.process.kill()
    report(worker, StatusLine("0of1"), age=5.0)
    assert started.view().state == "paused", "it starts, and has not read"
    report(worker, StatusLine("0of1", "running"), age=5.0)
    assert (started.view().state, started.view().reasons) == ("running", ())


def test_a_worker_that_reads_before_each_kill_does_not_wait_and_go_on_by_turns(supervisor: Supervisor) -> None:
    """Out of memory at the same messages: it opens, reads, and is killed."""
    (worker,), states = supervisor.workers, []
    for _ in range(8):
        report(worker, StatusLine("0of1"), StatusLine("0of1", "running", spans=1), age=15.0)
        states.append(supervisor.view().state)
        supervisor._ended(worker, -signal.SIGKILL, time.monotonic())
        states.append(supervisor.view().state)
    assert states[-6:] == ["paused"] * 6, "after the first few it has to run for longer than this"
    report(worker, StatusLine("0of1", "running"), age=HEALTHY_SECONDS)
    assert supervisor.view().state == "running"
    supervisor._ended(worker, -signal.SIGKILL, worker.started + HEALTHY_SECONDS + 1.0)
    assert supervisor.view().state == "starting", "its first one again"


@pytest.mark.parametrize("reason", ["Disk is full", ""])
def test_a_worker_that_is_killed_while_it_waits_still_waits(supervisor: Supervisor, reason: str) -> None:
    """The lane was said to go on while its next process had not read anything."""
    worker = supervisor.workers[0]
    if reason:
        report(worker, StatusLine("0of1", "paused", reason), age=1.0)
    else:
        ended(worker, supervisor, ServiceUnavailable, now=0.0)
        reason = "Something (somewhere); waiting, goes on by itself"
        worker.last = None
    supervisor._ended(worker, -signal.SIGKILL, worker.started)
    assert (supervisor.view().state, supervisor.view().reasons) == ("paused", (reason,))
    report(worker, StatusLine("0of1", "running"), age=1.0)
    assert supervisor.view().state == "running"


def test_a_worker_that_waits_on_trial_names_both_reasons(supervisor: Supervisor) -> None:
    worker = supervisor.workers[0]
    for _ in range(3):
        supervisor._ended(worker, -signal.SIGKILL, 0.0)
    report(worker, StatusLine("0of1", "paused", "Disk is full"), age=1.0)
    assert [reason.partition(" ")[0] for reason in supervisor.view().reasons] == ["Worker", "Disk"]
