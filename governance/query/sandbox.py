"""Starts the sandboxed interpreter, hands it one query, and takes its answer with care."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO

import msgspec
import pyarrow as pa

from governance.query.worker import Head, Request

START_SECONDS = 10
"""For the interpreter to start, on a busy machine."""

MOST_HEAD = 4096


class Ended(Exception):
    """The sandbox ended without an answer, or gave none that can be read."""


def interpreter() -> list[str]:
    """Return the command of the sandboxed interpreter."""
    return [sys.executable, "-I", "-B", "-m", "governance.query.worker"]


def run(request: Request) -> tuple[Head, pa.Table | None]:
    """Return head and rows of a query, run in an interpreter of its own that is killed when its time is over.

    Raises:
        Ended: it was killed by the system, or ended by itself.
    """
    process = subprocess.Popen(
        interpreter(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/"
    )
    over = threading.Event()

    def end() -> None:
        over.set()
        process.kill()

    timer = threading.Timer(request.seconds + START_SECONDS, end)
    timer.start()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        data = _exchange(process.stdin, process.stdout, msgspec.json.encode(request), request.size + MOST_HEAD)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    if over.is_set() or process.returncode == -signal.SIGXCPU:
        return Head(failed="time"), None
    return read_answer(data, request)


def _exchange(sink: IO[bytes], source: IO[bytes], request: bytes, most: int) -> bytes:
    """Send the request and return what comes back, one byte more than allowed at the most."""
    with suppress(BrokenPipeError):  # it ended before it listened; that shows in what it says
        sink.write(request)
    with suppress(BrokenPipeError):
        sink.close()
    return source.read(most + 1)


def read_answer(data: bytes, request: Request) -> tuple[Head, pa.Table | None]:
    """Return head and rows of what the sandbox wrote. It is held to its word: it may have been taken over.

    Raises:
        Ended: it is no answer.
    """
    if len(data) > request.size + MOST_HEAD:
        return Head(failed="size"), None
    line, _, body = data.partition(b"\n")
    try:
        head = msgspec.json.decode(line, type=Head)
        if head.failed:
            return head, None
        rows = pa.ipc.open_stream(body).read_all()
        rows.validate(full=True)
    except (msgspec.MsgspecError, pa.ArrowException, OSError):
        raise Ended from None
    if rows.num_rows != head.rows or head.rows > request.rows:
        raise Ended
    return head, rows
