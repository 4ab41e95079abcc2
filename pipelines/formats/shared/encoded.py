"""Columns of decoded elements: each distinct value stored once, with the reasons for refused ones."""

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
"""Distinct texts cached for each element. A full cache is cleared, so no sender can exhaust memory."""


class Refused(Exception):
    """Raised when an element is present and cannot be used: its message goes to the dead letters."""

    def __init__(self, reason: Reason, path: str = "") -> None:
        super().__init__(reason)
        self.reason, self.path = reason, path


@dataclass(frozen=True, slots=True)
class Encoded(Generic[_Value]):
    """A column of decoded elements.

    Attributes:
        index: int32 per item, into ``values``; -1 where the element is absent.
        values: decoded elements; None for a refused one.
        refused: index into ``values`` → the reason.
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
