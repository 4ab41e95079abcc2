"""Elements that repeat: each distinct raw text of a batch is decoded once, and remembered across batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.decoding.paths import reason_of
from pipelines.decoding.reasons import Reason

_Value = TypeVar("_Value")

REMEMBERED = 50_000
"""Distinct texts remembered an element; when there are more the memory is emptied: no sender can fill it."""


class Refused(Exception):
    """The element is there and cannot be used."""

    def __init__(self, reason: Reason, path: str = "") -> None:
        super().__init__(reason)
        self.reason, self.path = reason, path


@dataclass(frozen=True, slots=True)
class Encoded(Generic[_Value]):
    """A column of decoded elements.

    Attributes:
        index: int32 per item, into ``values``; -1 where the element is absent.
        values: decoded elements; None for one that was refused.
        refused: index into ``values`` → why.
    """

    index: npt.NDArray[np.int32]
    values: list[_Value | None]
    refused: dict[int, Refused]

    def strings(self: Encoded[str]) -> pa.DictionaryArray:
        """Return the column as Arrow strings."""
        return dictionary(self.index, self.values)


def dictionary(index: npt.NDArray[np.int32], values: Sequence[str | None]) -> pa.DictionaryArray:
    """Return a dictionary array; a negative index is null."""
    mask = index < 0
    indices = pa.array(index, pa.int32(), mask=mask if mask.any() else None)
    return pa.DictionaryArray.from_arrays(indices, pa.array(values, pa.string()))


class RawElement(Generic[_Value]):
    """Decodes one element of a resource, by text."""

    def __init__(self, decode: Callable[[bytes], _Value | None], path: str) -> None:
        """Make one; ``decode`` returns None for an element that counts as absent."""
        self._decode, self._path = decode, path
        self._known: dict[bytes, _Value | Refused | None] = {}

    def encode(self, texts: Sequence[bytes]) -> Encoded[_Value]:
        """Return the column of these raw texts; an empty one is an absent element."""
        distinct = dict.fromkeys(texts)
        values: list[_Value | None] = []
        refused: dict[int, Refused] = {}
        position: dict[bytes, int] = {}
        for text in distinct:
            if not text or text == b"null":
                position[text] = -1
                continue
            found = self._look_up(text)
            position[text] = -1 if found is None else len(values)
            if found is None:
                continue
            if isinstance(found, Refused):
                refused[len(values)] = found
                values.append(None)
            else:
                values.append(found)
        index = np.fromiter(map(position.__getitem__, texts), np.int32, len(texts))
        return Encoded(index, values, refused)

    def _look_up(self, text: bytes) -> _Value | Refused | None:
        found = self._known.get(text, ...)
        if found is ...:
            try:
                found = self._decode(text)
            except Refused as refused:
                found = Refused(refused.reason, refused.path or self._path)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                found = Refused(reason_of(error), self._path)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[text] = found
        return found
