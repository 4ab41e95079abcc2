"""The sandboxed interpreter: ``python -m governance.query.worker``. One query in, one answer out, over pipes.

It has an empty environment, cannot write a byte, and ends with its parent. Where the kernel allows that it has no
network, and can open no file but those of the query. What it says of a failure is a category.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, BinaryIO

import msgspec

from governance.query.engine import THREADS, connect
from governance.query.errors import Category
from governance.query.landlock import restrict
from governance.query.relations import SEALED, WHO, Relation

ADDRESS_SPACE_MB = 4096
"""Beside DuckDB's own memory: libraries, and what allocators reserve but do not use."""

BATCH_ROWS = 8192
ENGINE_READS = ("/proc/self/cgroup", "/proc/stat", "/sys/devices/system/cpu/online", "/sys/fs/cgroup")
"""What DuckDB reads to know how much machine there is; it ends the process if it may not. Nothing of anybody."""

_LIBRARIES = ("duckdb", "pyarrow", "pyarrow.ipc")
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

_NESTED = ("array", "list", "map", "struct", "tuple", "union", "variant")
_WRAPPED = f"STRUCT({SEALED} BLOB)"

_CATEGORIES: dict[str, Category] = {
    "BinderException": "names",
    "CatalogException": "names",
    "ConversionException": "cast",
    "IOException": "storage",
    "MemoryError": "memory",
    "OutOfMemoryException": "memory",
    "OutOfRangeException": "range",
    "ParserException": "form",
    "PermissionException": "refused",
    "SyntaxException": "form",
}


class Request(msgspec.Struct, frozen=True):
    """A query.

    Attributes:
        sql: one SELECT.
        relations: what it can read.
        rows: most that are answered.
        memory_mb: most that DuckDB takes.
        seconds: of processor time, for each thread.
        size: most bytes of an answer.
        beside: over identified rows, what is to be asked whose rows it rests on, a query or nothing; the query is
            refused before it reads a row where that cannot be asked, or the answer would hold a whole row in one value.
    """

    sql: str
    relations: list[Relation]
    rows: int
    memory_mb: int
    seconds: int
    size: int
    beside: list[str] | None = None


class Head(msgspec.Struct, frozen=True):
    """What comes before the rows: how many, whether there are more, or why there are none.

    Attributes:
        rows: how many follow.
        more: whether there are more.
        failed: why there are none.
        unread: it failed before it read a row. DuckDB has the same errors for what it finds out while it reads.
    """

    rows: int = 0
    more: bool = False
    failed: Category | None = None
    unread: bool = False


def answer(request: Request) -> bytes:
    """Return a head as a line of JSON, and after it the rows as an Arrow stream."""
    try:
        head, rows = _run(request)
    except Exception as error:  # whatever it is: its text stays here
        return _line(failed(error))
    if len(rows) > request.size:
        return _line(Head(failed="size"))
    return _line(head) + rows


def _run(request: Request) -> tuple[Head, bytes]:
    import pyarrow as pa

    try:
        connection = connect(request.relations, memory_mb=request.memory_mb)
    except Exception:  # nothing was asked yet: a file has gone, which DuckDB takes for one that is not allowed
        return Head(failed="storage"), b""
    found = bound(connection, request.sql, request.beside)
    if isinstance(found, Head):
        return found, b""
    reader = found.to_arrow_reader(BATCH_ROWS)
    sink, count, more = pa.BufferOutputStream(), 0, False
    with pa.ipc.new_stream(sink, reader.schema) as stream:
        for batch in reader:
            kept = batch.slice(0, request.rows - count)
            stream.write_batch(kept)
            count, more = count + kept.num_rows, kept.num_rows < batch.num_rows
            if more or sink.tell() > request.size:
                break
    return Head(count, more), sink.getvalue().to_pybytes()


def bound(connection: Any, sql: str, beside: Sequence[str] | None) -> Any:
    """Return a query with its names and types found, or the head for why not; no row is read.

    Args:
        connection: to the relations.
        sql: the query.
        beside: see Request.
    """
    try:
        found = connection.sql(sql)
    except Exception as error:
        return failed(error, unread=True)
    if found is None:
        return Head(failed="form", unread=True)
    if beside is not None and any(map(_is_nested, found.columns, found.types)):
        return Head(failed="nested", unread=True)
    try:
        for asked in beside or ():
            connection.sql(asked)
    except Exception:
        return Head(failed="outwards", unread=True)
    return found


def _is_nested(name: str, kind: Any) -> bool:
    """Return whether a column holds many values in one; a sealed one is one."""
    return name != WHO and kind.id in _NESTED and str(kind) != _WRAPPED


def failed(error: Exception, *, unread: bool = False) -> Head:
    """Return the head for an error; of its text nothing is kept."""
    return Head(failed=_CATEGORIES.get(type(error).__name__, "failed"), unread=unread)


def _line(head: Head) -> bytes:
    return msgspec.json.encode(head) + b"\n"


def confine(request: Request) -> None:
    """Take from this process what a query does not need; for good. To be called before it has other threads."""
    limits = {
        resource.RLIMIT_AS: (request.memory_mb + ADDRESS_SPACE_MB) << 20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    # The softer limit ends it by a signal of its own, by which the parent knows why.
    most = request.seconds * THREADS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A network of its own, with nothing in it. Where that is not allowed DuckDB's lock stands alone.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    for name in _LIBRARIES:  # afterwards their files cannot be opened any more
        import_module(name)
    files = [path for relation in request.relations for path in relation.paths]
    restrict([*files, *ENGINE_READS], libc)


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer the one request of a stream."""
    request = msgspec.json.decode(source.read(), type=Request)
    confine(request)
    sink.write(answer(request))
    sink.flush()


if __name__ == "__main__":  # pragma: no cover – runs in the child; main is tested with streams
    main(sys.stdin.buffer, sys.stdout.buffer)
