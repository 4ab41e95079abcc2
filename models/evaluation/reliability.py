"""Reliability: among stays with a similar predicted risk, the share that had the event."""

from __future__ import annotations

import msgspec
import numpy as np

from models.evaluation.metrics import Events, Floats

SMALLEST_GROUP = 11
"""Groups of fewer people are not shown: the rule of CMS for small cells."""


class Bin(msgspec.Struct, frozen=True):
    """Rows of similar probability: their number, the mean probability, and the share that had the event."""

    rows: int
    predicted: float
    observed: float


def reliability(probability: Floats, event: Events, *, count: int = 10) -> tuple[list[Bin], float | None]:
    """Return bins of equal size, and the expected calibration error: the mean gap, weighted by rows.

    There are fewer bins if they would have fewer than SMALLEST_GROUP rows.
    """
    count = min(count, len(event) // SMALLEST_GROUP)
    if count == 0:
        return [], None
    order = np.argsort(probability, kind="stable")
    bins = [
        Bin(len(part), float(probability[part].mean()), float(event[part].mean()))
        for part in np.array_split(order, count)
    ]
    error = sum(b.rows * abs(b.predicted - b.observed) for b in bins) / len(event)
    return bins, float(error)
