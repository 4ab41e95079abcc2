"""What a supervisor makes of a worker that has ended: again, wait for a correction, or the end of the stream."""

from __future__ import annotations

import logging

import msgspec
import pytest

from governance.audit.records import AuditBroken
from governance.errors import RuleError
from pipelines.live.lane import StreamOptions
from pipelines.live.status import TRANSIENT, StatusLine
from pipelines.live.supervisor import CONFIGURATION_SECONDS, MOST_CRASHES, Supervisor, Worker
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
    worker.failures = MOST_CRASHES
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
