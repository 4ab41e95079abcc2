"""Connections that do not end by themselves: a request that never comes whole, an answer that nobody reads.

uvicorn times a connection only between two requests. Without these deadlines five hundred connections that send a byte
now and then, or nothing, stay for ever, and keep everybody else out.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 15.0
"""From a request's first byte (or the connection's beginning) to its last; the longest has 16 kB."""

BODY_SECONDS = 10.0
"""Of these for the body, once the head has come: who is too slow is told so, see shield.py."""

READ_SECONDS = 30.0
"""For a browser to read anything of what was sent; one that was closed by its lid never does."""

MOST_CONNECTIONS = 2_000
"""Five hundred boards have one each, and another one while a page is loaded."""

SPARE_DESCRIPTORS = 128
"""For files and databases; the rest of what the system allows may be connections."""

BUSY_SECONDS = 5


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 with deadlines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._whole: asyncio.TimerHandle | None = None
        self._read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let a connection in; one too many is told so."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._answer(503, "Service unavailable", "Too many connections are open.", retry_after=BUSY_SECONDS)
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._forget_whole()
        self._forget_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came; a request that has begun has its deadline."""
        if self.transport.is_closing():  # h11 has no state for what comes after our last word
            return
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and self._is_under_way():
            self._expect()
        else:
            self._forget_whole()

    def _is_under_way(self) -> bool:
        """Return whether a part of a request has come, and not all of it."""
        return self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])

    def _expect(self) -> None:
        if self._whole is None:
            self._whole = self.loop.call_later(REQUEST_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._whole = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE or (self.cycle and not self.cycle.response_started):
            self._answer(408, "Request timeout", f"A request has to come within {REQUEST_SECONDS:g} seconds.")
        elif self.conn.their_state is not h11.DONE:
            self.transport.abort()

    def _answer(self, status: int, title: str, detail: str, *, retry_after: int = 0) -> None:
        """Say why the connection ends, and end it; the application has no part in it."""
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
        """Begin to count: the other side does not read."""
        super().pause_writing()
        if self._read is None:
            self._read = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop counting."""
        self._forget_read()
        super().resume_writing()

    def _forget_whole(self) -> None:
        if self._whole is not None:
            self._whole.cancel()
        self._whole = None

    def _forget_read(self) -> None:
        if self._read is not None:
            self._read.cancel()
        self._read = None


def most_connections() -> int:
    """Return how many connections may be open: as many as the system's descriptors leave room for."""
    return max(16, min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS))


def raise_descriptors() -> None:
    """Take as many descriptors as the system allows without asking: 1,024 are the usual beginning."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_DESCRIPTORS
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
