"""A worker process: one share on Beam's in-process runner, reporting to its supervisor by lines on standard output."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from types import FrameType

import psutil

from pipelines.live.lanes import STOP, LaneSpec, failures, lanes
from vitalake import logs
from vitalake.errors import VitaLakeError

_log = logging.getLogger(__name__)

REPORT_SECONDS = 0.5


def run_worker(spec: LaneSpec) -> int:
    """Run the lane of one share until it is told to stop or has nothing left to do; return the exit code.

    The garbage collector is tuned here and not in the decoder alone: a poll makes tens of thousands of objects, and
    walking them again and again took half of the time.
    """
    logs.configure()
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from pipelines.live.pipeline import build

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
            _log.error(
                "lane ended",
                extra={"what": cause.what, "where": cause.where, "remedy": cause.remedy, "share": spec.name},
            )
            return 75 if cause.transient else cause.exit_code
        _log.error("lane failed", extra={"share": spec.name, "what": _trace(cause)})
        return 1
    finally:
        ended.set()
        reporter.join()
    return 0


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
    parent = os.getppid()
    while True:
        over = ended.wait(REPORT_SECONDS)
        for lane in lanes():
            try:
                sys.stdout.buffer.write(lane.status.line(process.memory_info().rss))
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                STOP.set()
        if os.getppid() != parent:  # nobody watches any more
            STOP.set()
        if over:
            return
