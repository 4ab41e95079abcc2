"""Who is trained on and who is not, and the folds: decided per patient, from the pseudonym alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HELD_OUT_OF_256 = 77
"""30 % of the patients are never trained on; the demo replays exactly those."""


def held_out(patient: str) -> bool:
    """Return whether a patient, given by the pseudonym, is kept away from all training, for ever and everywhere."""
    return hashlib.sha256(patient.encode()).digest()[0] < HELD_OUT_OF_256


def folds(patients: Sequence[str], events: npt.NDArray[np.bool_], *, count: int) -> npt.NDArray[np.int64]:
    """Return a fold for each row; all rows of a patient are in one, and patients with an event are spread evenly.

    Within patients with and without an event the order is that of a hash, so folds do not depend on the rows' order,
    nor on who else comes later except by shifting places.
    """
    with_event: dict[str, bool] = {}
    for patient, event in zip(patients, events.tolist(), strict=True):
        with_event[patient] = with_event.get(patient, False) or event
    # One round over those with an event, then on over the others: sizes differ by one patient at most.
    order = sorted(with_event, key=lambda p: (not with_event[p], hashlib.sha256(f"fold|{p}".encode()).digest()))
    fold_of = {patient: i % count for i, patient in enumerate(order)}
    return np.array([fold_of[patient] for patient in patients], np.int64)
