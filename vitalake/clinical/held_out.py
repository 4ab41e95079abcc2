"""Decides for each patient, from the pseudonym alone, whether models may be trained on them, and in which fold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HELD_OUT_OF_256 = 77
"""30 % of the patients are held out: no model is trained on them. The demo's devices replay exactly these patients."""


def held_out(patient: str) -> bool:
    """Return whether a patient, given by pseudonym, is held out: no training of any model ever uses the patient."""
    return hashlib.sha256(patient.encode()).digest()[0] < HELD_OUT_OF_256


def folds(patients: Sequence[str], events: npt.NDArray[np.bool_], *, count: int) -> npt.NDArray[np.int64]:
    """Return a fold for each row; all rows of a patient are in one fold, and patients with an event are spread evenly.

    Patients with an event are ordered by a hash, and so are those without. The folds therefore do not depend on the
    order of the rows. A patient who is added later only shifts the places of the patients behind.
    """
    with_event: dict[str, bool] = {}
    for patient, event in zip(patients, events.tolist(), strict=True):
        with_event[patient] = with_event.get(patient, False) or event
    # First deal out the patients with an event, then go on with the others: sizes differ by one patient at most.
    order = sorted(with_event, key=lambda p: (not with_event[p], hashlib.sha256(f"fold|{p}".encode()).digest()))
    fold_of = {patient: i % count for i, patient in enumerate(order)}
    return np.array([fold_of[patient] for patient in patients], np.int64)
