"""The sandboxed interpreter (``python -m governance.query.worker``): reads one query, writes one answer, over pipes.

It has an empty environment, cannot write to files, and ends with its parent. Where the kernel supports it, the process
has no network and can open only the files of the query. It reports a failure as a category, never as DuckDB's text.
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
"""In addition to DuckDB's own memory: libraries, and what allocators reserve but do not use."""

BATCH_ROWS = 8192
ENGINE_READS = ("/proc/self/cgroup", "/proc/stat", "/sys/devices/system/cpu/online", "/sys/fs/cgroup")
"""DuckDB reads these to size its pools, and ends the process if it cannot. They hold no data of a patient."""

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
        rows: the most rows of an answer.
        memory_mb: the most memory that DuckDB takes.
        seconds: of processor time, for each thread.
        size: the most bytes of an answer.
        side_queries: None: the query reads no identified rows. Else the queries, if any, that will find the patients
            behind the answer. The worker refuses the query before it reads a row if DuckDB cannot bind one of them, or
            if the answer would hold a whole row in one value.
    """

    sql: str
    relations: list[Relation]
    rows: int
    memory_mb: int
    seconds: int
    size: int
    side_queries: list[str] | None = None


class Head(msgspec.Struct, frozen=True):
    """The header of an answer: how many rows follow, whether there are more, or why there are none.

    Attributes:
        rows: how many follow.
        more: whether there are more.
        failed: why there are none.
        unread: whether the query failed before it read a row. The category does not say so: DuckDB raises the same
            errors when it binds a query and while it reads rows.
    """

    rows: int = 0
    more: bool = False
    failed: Category | None = None
    unread: bool = False


def answer(request: Request) -> bytes:
    """Return a head as a line of JSON, and after it the rows as an Arrow stream."""
    try:
        head, rows = _run(request)
    except Exception as error:  # DuckDB's texts quote values: no text leaves this process
        return _line(failed(error))
    if len(rows) > request.size:
        return _line(Head(failed="size"))
    return _line(head) + rows


def _run(request: Request) -> tuple[Head, bytes]:
    import pyarrow as pa

    try:
        connection = connect(request.relations, memory_mb=request.memory_mb)
    except Exception:  # no query has run yet: a file is gone, which DuckDB reports as one that is not allowed
        return Head(failed="storage"), b""
    bound = bind(connection, request.sql, request.side_queries)
    if isinstance(bound, Head):
        return bound, b""
    reader = bound.to_arrow_reader(BATCH_ROWS)
    sink, count, more = pa.BufferOutputStream(), 0, False
    with pa.ipc.new_stream(sink, reader.schema) as stream:
        for batch in reader:
            kept = batch.slice(0, request.rows - count)
            stream.write_batch(kept)
            count, more = count + kept.num_rows, kept.num_rows < batch.num_rows
            if more or sink.tell() > request.size:
                break
    return Head(count, more), sink.getvalue().to_pybytes()


def bind(connection: Any, sql: str, side_queries: Sequence[str] | None) -> Any:
    """Return a query whose names and types DuckDB has resolved, or the head that says why not; reads no row.

    Args:
        connection: to the relations.
        sql: the query.
        side_queries: see Request.
    """
    try:
        bound = connection.sql(sql)
    except Exception as error:
        return failed(error, unread=True)
    if bound is None:
        return Head(failed="form", unread=True)
    if side_queries is not None and any(map(_is_nested, bound.columns, bound.types)):
        return Head(failed="nested", unread=True)
    try:
        for query in side_queries or ():
            connection.sql(query)
    except Exception:
        return Head(failed="outwards", unread=True)
    return bound


def _is_nested(name: str, kind: Any) -> bool:
    """Return whether a column holds several values in one; a sealed value counts as one."""
    return name != WHO and kind.id in _NESTED and str(kind) != _WRAPPED


def failed(error: Exception, *, unread: bool = False) -> Head:
    """Return the head for an error, without the error's text."""
    return Head(failed=_CATEGORIES.get(type(error).__name__, "failed"), unread=unread)


def _line(head: Head) -> bytes:
    return msgspec.json.encode(head) + b"\n"


def confine(request: Request) -> None:
    """Give up, for good, what a query does not need. Call it before this process has other threads."""
    limits = {
        resource.RLIMIT_AS: (request.memory_mb + ADDRESS_SPACE_MB) << 20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    # The soft limit ends the process by SIGXCPU: so the parent knows that its time was over.
    most = request.seconds * THREADS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # An empty network namespace. Where the system does not allow one, only DuckDB's own lock keeps a query offline.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    for name in _LIBRARIES:  # import them now: after restrict() their files cannot be opened
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
