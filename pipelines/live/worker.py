"""A worker process: one shard on Beam's in-process runner, reporting to its supervisor by lines on standard output."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from types import FrameType

import msgspec
import psutil
import pyarrow as pa

from pipelines.live.lanes import STOP, LaneSpec, failures, lanes
from pipelines.live.status import StatusLine
from vitalake import logs
from vitalake.errors import VitaLakeError

_log = logging.getLogger(__name__)

REPORT_SECONDS = 0.5


def run_worker(spec: LaneSpec, *, supervised: bool) -> int:
    """Run the lane of one shard until it is told to stop or has nothing left to do; return the exit code.

    The garbage collector is tuned here and not in the decoder alone: a poll makes tens of thousands of objects, and
    walking them again and again took half of the time.

    Args:
        spec: the lane.
        supervised: whether a supervisor reads what the worker says.
    """
    logs.configure()
    logs.silence_failures()
    with logs.importing():  # Beam warns of a client for BigQuery that is not there
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        from pipelines.live.pipeline import build

    _keep_freed_memory()
    _stop_on_signals()
    ended = threading.Event()
    reporter = threading.Thread(target=_report, args=(ended,), daemon=True)
    reporter.start()
    # From here on collections happen at the end of bundles only: see Lane.finish.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        # Named, and built by hand: another runner would be replaced silently where it cannot be had.
        with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(["--streaming"])) as root:
            build(root, [spec])
    except BaseException as error:
        cause = failures[-1] if failures else error
        if isinstance(cause, VitaLakeError):
            ended.set()
            reporter.join()
            if supervised:  # the supervisor logs it: it knows whether that is news
                _write(last_line(spec.name, cause))
            else:
                extra = {"what": cause.what, "where": cause.where, "remedy": cause.remedy, "shard": spec.name}
                _log.error("lane ended", extra=extra)
            return 75 if cause.transient else cause.exit_code
        _log.error("lane failed", extra={"shard": spec.name, "what": _trace(cause)})
        return 1
    finally:
        ended.set()
        reporter.join()
    return 0


def _keep_freed_memory() -> None:
    """Let Arrow keep what it frees for a second, where it can: by default it is given back at once, in pages.

    A span's columns are written and freed again and again; fetching their pages anew each time took a tenth of a
    worker's processor time.
    """
    if "jemalloc" in pa.supported_memory_backends() and "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def last_line(shard: str, cause: VitaLakeError) -> bytes:
    """Return what a worker says last: why it ends, and of which kind that is.

    Settings, rules and profiles are read when a worker starts. Somebody may break one of them while the stream runs,
    and correct it again. Other keys, a broken audit chain and damaged files do not pass while a worker waits.
    """
    line = StatusLine(
        shard,
        reason=cause.what,
        where=cause.where,
        remedy=cause.remedy,
        ended_for="service" if cause.transient else "configuration" if cause.correctable else "other",
    )
    return msgspec.json.encode(line) + b"\n"


def _trace(error: BaseException) -> str:
    """Where an unexpected error came from; not its text, which may hold a value."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(frames[-6:]))}"


def _stop_on_signals() -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        STOP.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _report(ended: threading.Event) -> None:
    process = psutil.Process()
    while True:
        over = ended.wait(REPORT_SECONDS)
        for lane in lanes():
            _write(lane.status.line(process.memory_info().rss))
        if over:
            return


def _write(line: bytes) -> None:
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # nobody listens any more
        STOP.set()
