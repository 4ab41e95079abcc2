"""Starts the sandboxed interpreter, sends it one query, and checks its answer, which may come from an attacker."""

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
"""Added to a query's time, for the interpreter to start on a busy machine."""

MOST_HEAD = 4096
"""The most bytes of the head."""


class Ended(Exception):
    """The sandbox ended without an answer, or with one that cannot be read."""


def interpreter() -> list[str]:
    """Return the command line of the sandboxed interpreter."""
    return [sys.executable, "-I", "-B", "-m", "governance.query.worker"]


def run(request: Request) -> tuple[Head, pa.Table | None]:
    """Run a query in a new interpreter, which is killed when its time is over; return head and rows.

    Raises:
        Ended: the interpreter was killed by the system, or ended by itself.
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
    """Send the request and return the reply, at most one byte more than is allowed."""
    with suppress(BrokenPipeError):  # the interpreter has ended already; its empty reply will show that
        sink.write(request)
    with suppress(BrokenPipeError):
        sink.close()
    return source.read(most + 1)


def read_answer(data: bytes, request: Request) -> tuple[Head, pa.Table | None]:
    """Return head and rows of what the sandbox wrote; check it in full, for an attacker may control the sandbox.

    Raises:
        Ended: it is not an answer.
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
