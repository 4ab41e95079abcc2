"""Time-outs for calls into a database driver, which would wait for ever for a server that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from vitalake.errors import ServiceUnavailable

_T = TypeVar("_T")

CONNECT_SECONDS = 10

_LIBPQ = {
    "connect_timeout": CONNECT_SECONDS,
    # The system notices within a minute that a server's machine is gone. A server that hangs still acknowledges
    # packets: for it there is ``answered``.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Defaults for parameters of PostgreSQL's client library, in seconds; the last one in milliseconds."""


class Silent(ServiceUnavailable):
    """The server has not answered. The call still waits in its thread: do not use or close its connection."""


def with_keepalives(address: str) -> str:
    """Return the address of a PostgreSQL server with network time-outs added, where it does not set them."""
    parts = urlsplit(address)
    given = parse_qsl(parts.query, keep_blank_values=True)
    missing = {name: value for name, value in _LIBPQ.items() if name not in dict(given)}
    return urlunsplit(parts._replace(query=urlencode([*given, *missing.items()])))


def answered(call: Callable[[], _T], *, seconds: float | None, where: str) -> _T:
    """Make a call and return its result, unless it takes too long.

    Args:
        call: made in a thread of its own, which ends with the process.
        seconds: how long to wait; None: for ever, and the call is made in this thread.
        where: the server's name, for the error.

    Raises:
        Silent: there was no answer in time.
        Exception: what the call raises.
    """
    if seconds is None:
        return call()
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="warehouse", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Silent(
            f"Warehouse has not answered for {seconds:g} seconds",
            where=where,
            remedy="Check on the server what the query waits for. If it only needs longer before its next rows, raise "
            "silence_seconds in the job file.",
        )
    if errors:
        raise errors[0]
    return results[0]
