"""Figures by sex and age, which show a model that is good on average but bad for a group."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from models.evaluation.figures import Estimate, Evaluator
from models.evaluation.metrics import Floats
from models.evaluation.reliability import SMALLEST_GROUP

FEWEST_EVENTS = 11
"""With fewer events, or fewer stays without, a group's figures are mostly chance, and counts could identify people."""

_AGES = (("under 50", 0, 50), ("50 to 64", 50, 65), ("65 to 79", 65, 80), ("80 and older", 80, 200))


class Group(msgspec.Struct, frozen=True):
    """A group's figures.

    Attributes:
        name: of the group.
        rows: the number of stays; None: fewer than 11.
        events: stays with the event; None: fewer than 11 with or without it; then there are no figures.
    """

    name: str
    rows: int | None
    events: int | None
    auroc: Estimate | None
    observed_to_expected: Estimate | None


def groups(probability: Floats, evaluator: Evaluator, *, age: Floats, female: Floats) -> list[Group]:
    """Return the figures of women, men and four ages."""
    chosen: list[tuple[str, npt.NDArray[np.bool_]]] = [("women", female == 1), ("men", female == 0)]
    chosen += [(f"age {name}", (age >= low) & (age < high)) for name, low, high in _AGES]
    return [_group(name, probability[mine], evaluator.where(mine)) for name, mine in chosen]


def _group(name: str, probability: Floats, evaluator: Evaluator) -> Group:
    rows, events = len(evaluator.event), int(evaluator.event.sum())
    if rows < SMALLEST_GROUP:
        return Group(name, None, None, None, None)
    if min(events, rows - events) < FEWEST_EVENTS:
        return Group(name, rows, None, None, None)
    found = evaluator.figures(probability, names=("auroc", "observed_to_expected"))
    return Group(name, rows, events, found["auroc"], found["observed_to_expected"])
