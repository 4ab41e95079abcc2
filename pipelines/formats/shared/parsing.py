"""Parsing JSON messages one by one: a bad one harms only itself."""

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
"""Messages parsed at a time: their objects, about a megabyte, stay in the processor's cache until they are freed."""

PARSE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector from walking the batch while it grows; that took half of the time."""
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
            decode: of one message; raises one of PARSE_ERRORS.
            max_message_bytes: longer messages are rejected unread.
            refused: reason and path for what ``decode`` raised.
        """
        self._decode, self._most_bytes, self._refused = decode, max_message_bytes, refused

    def parse(
        self, values: Sequence[bytes | None], rejects: dict[int, Reject]
    ) -> Iterator[tuple[list[_Parsed], list[int]]]:
        """Yield for each chunk what was parsed, and of each the index of its message; note the others in rejects."""
        for begin in range(0, len(values), CHUNK):
            yield self._parse(values[begin : begin + CHUNK], begin, rejects)

    def rows(
        self, values: Sequence[bytes | None], decode: Callable[[_Parsed], Iterable[_Row]], rejects: dict[int, Reject]
    ) -> Each[_Row]:
        """Return the rows of messages, each of which is decoded by itself; note what is refused in rejects."""
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
            except PARSE_ERRORS as error:  # one of them is bad: the loop goes on behind it
                i = message.pop(len(parsed))
                rejects[i] = Reject(i, *self._refused(error))
            else:
                return parsed, message


def readable(
    values: Sequence[bytes | None], message: list[int], rejects: dict[int, Reject], *, most_bytes: int
) -> list[int]:
    """Return the messages that are to be parsed: no tombstones, nothing too large."""
    found = []
    for i, value in zip(message, values, strict=True):
        if value is not None and len(value) > most_bytes:
            rejects[i] = Reject(i, Reason.TOO_LARGE)
        elif value is not None:
            found.append(i)
    return found


class Each(NamedTuple, Generic[_Row]):
    """What messages were decoded to, one by one.

    Attributes:
        rows: of all messages.
        message: index of the message of each.
        empty: messages that hold none.
    """

    rows: list[_Row]
    message: list[int]
    empty: list[int]


def decode_each(
    items: Iterable[tuple[int, _Item]], decode: Callable[[_Item], Iterable[_Row]], rejects: dict[int, Reject]
) -> Each[_Row]:
    """Return the rows of messages; of one that is refused there are none.

    Args:
        items: index of the message, and what was parsed of it.
        decode: raises Refused.
        rejects: the refused ones are put here.
    """
    each: Each[_Row] = Each([], [], [])
    for i, item in items:
        try:
            found = list(decode(item))
        except Refused as refused:
            rejects[i] = Reject(i, refused.reason, refused.path)
            continue
        each.rows.extend(found)
        each.message.extend([i] * len(found))
        if not found:
            each.empty.append(i)
    return each
