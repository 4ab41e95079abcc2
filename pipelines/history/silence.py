"""Calls into a database driver that would wait for ever on a server which says nothing and closes nothing."""

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
    # A server whose machine is gone is noticed within a minute, by the system. One that hangs goes on acknowledging.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Parameters of PostgreSQL's client library, where the address does not give them: seconds, and milliseconds."""


class Silent(ServiceUnavailable):
    """The server has not answered; the call waits on in its thread, so its connection must not be used or closed."""


def with_keepalives(address: str) -> str:
    """Return the address of a PostgreSQL with time-outs of the network."""
    parts = urlsplit(address)
    given = parse_qsl(parts.query, keep_blank_values=True)
    missing = {name: value for name, value in _LIBPQ.items() if name not in dict(given)}
    return urlunsplit(parts._replace(query=urlencode([*given, *missing.items()])))


def answered(call: Callable[[], _T], *, seconds: float | None, where: str) -> _T:
    """Return what a call returns.

    Args:
        call: made in a thread of its own, which ends with the process.
        seconds: how long to wait; None: for ever, and in this thread.
        where: who is asked.

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
            remedy="Look there what it does, and what the query waits for; a query that needs longer before its next "
            "rows wants a greater silence_seconds in the job file.",
        )
    if errors:
        raise errors[0]
    return results[0]
