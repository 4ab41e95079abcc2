"""Deadlines for connections: a request that never completes, a response that the client does not read.

uvicorn has a timeout only between two requests. Without these deadlines five hundred connections that send a byte now
and then, or nothing, would stay open for ever and lock everybody else out.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 15.0
"""From a request's first byte (or the start of the connection) to its last; a request has at most 16 kB."""

BODY_SECONDS = 10.0
"""The part of it for the body, after the head; a client that is too slow gets a 408, see security.py."""

READ_SECONDS = 30.0
"""Within this time a client must read something of what was sent; a laptop whose lid was closed never does."""

MOST_CONNECTIONS = 2_000
"""Five hundred boards have one connection each, and another one while a page loads; the rest is reserve."""

SPARE_DESCRIPTORS = 128
"""File descriptors kept for files and databases; the rest of the system's limit may be connections."""

BUSY_SECONDS = 5
"""Retry-After for clients that are refused because too many are connected."""


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 with deadlines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request_deadline: asyncio.TimerHandle | None = None
        self._read_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or answer 503 if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._answer(503, "Service unavailable", "Too many connections are open.", retry_after=BUSY_SECONDS)
            return
        self._start_request_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        self._cancel_request_deadline()
        self._cancel_read_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive data; a request that has started gets its deadline."""
        if self.transport.is_closing():  # h11 cannot handle data that comes after our last response
            return
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and self._is_under_way():
            self._start_request_deadline()
        else:
            self._cancel_request_deadline()

    def _is_under_way(self) -> bool:
        """Return whether a request has arrived in part only."""
        return self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])

    def _start_request_deadline(self) -> None:
        if self._request_deadline is None:
            self._request_deadline = self.loop.call_later(REQUEST_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._request_deadline = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE or (self.cycle and not self.cycle.response_started):
            self._answer(408, "Request timeout", f"A request must arrive within {REQUEST_SECONDS:g} seconds.")
        elif self.conn.their_state is not h11.DONE:
            self.transport.abort()

    def _answer(self, status: int, title: str, detail: str, *, retry_after: int = 0) -> None:
        """Send a problem document and close the connection, without the application."""
        kind = f"urn:vitalake:problem:{title.lower().replace(' ', '-')}"
        body = msgspec.json.encode({"type": kind, "title": title, "status": status, "detail": detail})
        head = [
            f"HTTP/1.1 {status} {title}", "content-type: application/problem+json", f"content-length: {len(body)}",
            "cache-control: no-store", "connection: close",
        ]  # fmt: skip
        if retry_after:
            head.append(f"retry-after: {retry_after}")
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()

    def pause_writing(self) -> None:
        """Start the read deadline: the client does not read."""
        super().pause_writing()
        if self._read_deadline is None:
            self._read_deadline = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the read deadline."""
        self._cancel_read_deadline()
        super().resume_writing()

    def _cancel_request_deadline(self) -> None:
        if self._request_deadline is not None:
            self._request_deadline.cancel()
        self._request_deadline = None

    def _cancel_read_deadline(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
        self._read_deadline = None


def most_connections() -> int:
    """Return how many connections may be open, limited by the system's file descriptors."""
    return max(16, min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS))


def raise_descriptors() -> None:
    """Raise the soft limit of file descriptors as far as needed and allowed; it usually starts at 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_DESCRIPTORS
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
