"""Columns of decoded elements: each distinct value once, and why some of them are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.shared.reasons import Reason

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
