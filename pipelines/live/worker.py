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
from pipelines.live.status import TRANSIENT, StatusLine
from vitalake import logs
from vitalake.errors import VitaLakeError

_log = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
"""Time between two status lines."""


def run_worker(spec: LaneSpec, *, supervised: bool) -> int:
    """Run the lane of one shard until a signal stops it or it has nothing left to do; return the exit code.

    The automatic garbage collector is off while the lane runs: a poll creates tens of thousands of objects, and the
    collector took half of the processor time to walk them again and again.

    Args:
        spec: the lane.
        supervised: whether a supervisor reads the status lines.
    """
    logs.configure()
    logs.silence_failures()
    with logs.importing():  # Beam warns about a BigQuery client that is not installed
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        from pipelines.live.pipeline import build

    _keep_freed_memory()
    _stop_on_signals()
    ended = threading.Event()
    reporter = threading.Thread(target=_report, args=(ended,), daemon=True)
    reporter.start()
    # From here on garbage is collected only at the end of bundles: see Lane.finish.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        # An instance, not a name: Beam silently replaces a runner that is given by name when it is not available.
        with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(["--streaming"])) as root:
            build(root, [spec])
    except BaseException as error:
        cause = failures[-1] if failures else error
        if isinstance(cause, VitaLakeError):
            ended.set()
            reporter.join()
            if supervised:  # the supervisor logs it, because it knows whether it has logged the same before
                _write(last_line(spec.name, cause))
            else:
                extra = {"what": cause.what, "where": cause.where, "remedy": cause.remedy, "shard": spec.name}
                _log.error("lane ended", extra=extra)
            return TRANSIENT if cause.transient else cause.exit_code
        _log.error("lane failed", extra={"shard": spec.name, "what": _trace(cause)})
        return 1
    finally:
        ended.set()
        reporter.join()
    return 0


def _keep_freed_memory() -> None:
    """Let Arrow keep freed memory for a second where its allocator can: by default it returns pages at once.

    Columns of spans are allocated and freed again and again. Getting their pages back from the system each time took a
    tenth of a worker's processor time.
    """
    if "jemalloc" in pa.supported_memory_backends() and "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def last_line(shard: str, cause: VitaLakeError) -> bytes:
    """Return the last status line of a worker: why it ends, and which kind of problem that is.

    Settings, rules and profiles are read when a worker starts. Somebody can break one of them while the stream runs,
    and correct it again. Wrong keys, a broken audit chain and damaged files do not get better while a worker waits.
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
    """Return where an unexpected error came from, without its text, which can contain a value."""
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
        is_last = ended.wait(REPORT_SECONDS)
        for lane in lanes():
            _write(lane.status.line(process.memory_info().rss))
        if is_last:
            return


def _write(line: bytes) -> None:
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the supervisor is gone
        STOP.set()
