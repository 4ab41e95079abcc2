"""Stand-ins: tell records apart whose key has text that must not be published.

Such text is published as null. Two diagnoses of a stay whose codes do not have their form would then have the same key,
and one would hide the other. A stand-in is a keyed hash over the whole key of the record as it came. It is the same for
every version of a record and differs between records, also between equal texts of two patients. It says nothing of the
text.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from governance.policy.closed_text import Rows

_BYTES = 16


class StandIns:
    """Makes stand-ins with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.digest(secret, b"stand-in", "sha256")

    def __call__(self, bad: Rows, dataset: str, key: Sequence[pa.Array]) -> pa.Array:
        """Return stand-ins for some rows, and null for the others.

        Args:
            bad: the rows whose key has text that is not published.
            dataset: its name.
            key: the columns of the records' key, as they came.
        """
        made: list[bytes | None] = [None] * len(bad)
        places = np.flatnonzero(bad)
        values = zip(*(column.take(pa.array(places)).to_pylist() for column in key), strict=True)
        for place, parts in zip(places.tolist(), values, strict=True):
            made[place] = self._of((dataset, *parts))
        return pa.array(made, pa.binary())

    def _of(self, parts: Sequence[object]) -> bytes:
        encoded = [b"-" if part is None else b"+%d:" % len(raw := str(part).encode()) + raw for part in parts]
        return hmac.digest(self._secret, b"".join(encoded), "sha256")[:_BYTES]
