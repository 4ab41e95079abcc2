"""Decodes elements that repeat: each distinct raw text is decoded once, and cached across batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np

from pipelines.formats.fhir.paths import reason_of
from pipelines.formats.shared.encoded import REMEMBERED, Encoded, Refused

_Value = TypeVar("_Value")


class RawElement(Generic[_Value]):
    """Decodes one element of a resource, with a cache by raw text."""

    def __init__(self, decode: Callable[[bytes], _Value | None], path: str) -> None:
        """Prepare; ``decode`` returns None for an element that counts as absent."""
        self._decode, self._path = decode, path
        self._cache: dict[bytes, _Value | Refused | None] = {}

    def encode(self, texts: Sequence[bytes]) -> Encoded[_Value]:
        """Return the column of these raw texts; an empty text is an absent element."""
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
        found = self._cache.get(text, ...)
        if found is ...:
            try:
                found = self._decode(text)
            except Refused as refused:
                found = Refused(refused.reason, refused.path or self._path)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                found = Refused(reason_of(error), self._path)
            if len(self._cache) >= REMEMBERED:
                self._cache.clear()
            self._cache[text] = found
        return found
