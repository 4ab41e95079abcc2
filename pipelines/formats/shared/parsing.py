"""Parses JSON messages one by one, so that a bad message affects only itself."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import msgspec

from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Reject

_Parsed = TypeVar("_Parsed")
_Item = TypeVar("_Item")
_Row = TypeVar("_Row")

CHUNK = 1_000
"""Messages parsed at a time. Their objects, about a megabyte, stay in the processor's cache until they are freed."""

PARSE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector while a batch is decoded: walking the growing batch took half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class JsonMessages(Generic[_Parsed]):
    """Parses the messages of a poll, a chunk at a time."""

    def __init__(
        self,
        decode: Callable[[bytes], _Parsed],
        *,
        max_message_bytes: int,
        refused: Callable[[Exception], tuple[Reason, str]],
    ) -> None:
        """Make one.

        Args:
            decode: parses one message; raises one of PARSE_ERRORS.
            max_message_bytes: longer messages are rejected unread.
            refused: returns reason and path for an error of ``decode``.
        """
        self._decode, self._most_bytes, self._refused = decode, max_message_bytes, refused

    def parse(
        self, values: Sequence[bytes | None], rejects: dict[int, Reject]
    ) -> Iterator[tuple[list[_Parsed], list[int]]]:
        """Yield, chunk by chunk, the parsed messages and their indices; add the others to ``rejects``."""
        for begin in range(0, len(values), CHUNK):
            yield self._parse(values[begin : begin + CHUNK], begin, rejects)

    def rows(
        self, values: Sequence[bytes | None], decode: Callable[[_Parsed], Iterable[_Row]], rejects: dict[int, Reject]
    ) -> Each[_Row]:
        """Return the rows of messages, each decoded by itself; add refused messages to ``rejects``."""
        items = (
            (i, parsed)
            for chunk, indices in self.parse(values, rejects)
            for parsed, i in zip(chunk, indices, strict=True)
        )
        return decode_each(items, decode, rejects)

    def _parse(
        self, values: Sequence[bytes | None], begin: int, rejects: dict[int, Reject]
    ) -> tuple[list[_Parsed], list[int]]:
        message = list(range(begin, begin + len(values)))
        if None in values or max(map(len, values)) > self._most_bytes:  # type: ignore[arg-type]
            message = readable(values, message, rejects, most_bytes=self._most_bytes)
            values = [values[i - begin] for i in message]
        parsed: list[_Parsed] = []
        decode, keep = self._decode, parsed.append
        remaining = iter(values)
        while True:
            try:
                for value in remaining:
                    keep(decode(value))  # type: ignore[arg-type]
            except PARSE_ERRORS as error:  # the while loop goes on behind the bad message
                i = message.pop(len(parsed))
                rejects[i] = Reject(i, *self._refused(error))
            else:
                return parsed, message


def readable(
    values: Sequence[bytes | None], message: list[int], rejects: dict[int, Reject], *, most_bytes: int
) -> list[int]:
    """Return the messages to parse: without tombstones, and without those too large, which are rejected."""
    chosen = []
    for i, value in zip(message, values, strict=True):
        if value is not None and len(value) > most_bytes:
            rejects[i] = Reject(i, Reason.TOO_LARGE)
        elif value is not None:
            chosen.append(i)
    return chosen


class Each(NamedTuple, Generic[_Row]):
    """The rows of messages that were decoded one by one.

    Attributes:
        rows: rows of all messages.
        message: per row, the index of its message.
        empty: indices of messages without rows.
    """

    rows: list[_Row]
    message: list[int]
    empty: list[int]


def decode_each(
    items: Iterable[tuple[int, _Item]], decode: Callable[[_Item], Iterable[_Row]], rejects: dict[int, Reject]
) -> Each[_Row]:
    """Return the rows of messages; a refused message has none.

    Args:
        items: index of the message, and its parsed content.
        decode: returns the rows of one message; raises Refused.
        rejects: refused messages are added here.
    """
    each: Each[_Row] = Each([], [], [])
    for i, item in items:
        try:
            rows = list(decode(item))
        except Refused as refused:
            rejects[i] = Reject(i, refused.reason, refused.path)
            continue
        each.rows.extend(rows)
        each.message.extend([i] * len(rows))
        if not rows:
            each.empty.append(i)
    return each
