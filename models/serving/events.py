"""Server-sent events, made once for however many boards; compressed once, too.

A row is 3 kB of HTML: a hundred changed rows a second on five hundred boards are 130 MB/s, which the kernel copies
while scores wait. Compressed they are a tenth. Each event is a run of deflate blocks that looks back at no other, so
that the same bytes fit into every board's stream, whenever that began.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import StreamingResponse

HEADERS = {"x-accel-buffering": "no", "vary": "accept-encoding"}
"""A proxy must pass events on at once."""

_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952: deflate, no name, no time, of no system. The stream has no end, and so no checksum."""

_LEVEL = 1
"""Half a millisecond for 75 kB; higher levels save little more."""


class Event:
    """What browsers are sent."""

    def __init__(self, name: str, document: dict[str, Any], *, place: str = "") -> None:
        """Make it.

        Args:
            name: of the event.
            document: its data.
            place: where a board is that has had it; empty: where it was.
        """
        number = b"id: %b\n" % place.encode() if place else b""
        self.plain = number + b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(document))

    @cached_property
    def packed(self) -> bytes:
        """Return it as a run of deflate blocks, for a stream in gzip."""
        return pack(self.plain)


def pack(plain: bytes) -> bytes:
    """Return deflate blocks that end on a byte, and need nothing before them."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(plain) + packer.flush(zlib.Z_FULL_FLUSH)


RETRY = b"retry: 1000\n\n"


def stream(request: Request, events: AsyncIterator[Event]) -> StreamingResponse:
    """Return the answer that sends events as they come; compressed, to who reads that."""
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return StreamingResponse(_plain(events), headers=HEADERS, media_type="text/event-stream")
    headers = HEADERS | {"content-encoding": "gzip"}
    return StreamingResponse(_packed(events), headers=headers, media_type="text/event-stream")


async def _plain(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield RETRY
    async for event in events:
        yield event.plain


async def _packed(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield _GZIP_HEAD + pack(RETRY)
    async for event in events:
        yield event.packed
