"""Measured values on their way into the care store, a poll at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROW = np.dtype(
    [
        ("code", "<u4"),
        ("withdrawn", "<u2"),
        ("attribution", "<u2"),
        ("value", "<f8"),
        ("effective_us", "<i8"),
        ("available_us", "<i8"),
        ("id", "<u8"),
        ("version", "<i8"),
    ]
)
"""One value: LOINC as a number, whether it was taken back, how much was known of whose it is (0: the message said so;
see the dataset observation), the first half of observation_id, and its version."""

MOST_ATTRIBUTION = 0xFFFE
"""Where more is known than fits, what was stored last counts: after 32,767 facts of one device."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values of a poll.

    Attributes:
        rows: of dtype ROW.
        patient: index into ``patients`` of each row.
        patients: pseudonyms.
        position: source position of each row.
        part: index into ``parts`` of each row.
        parts: names of the source's partitions.
    """

    rows: npt.NDArray[np.void]
    patient: npt.NDArray[np.int32]
    patients: Sequence[str]
    position: npt.NDArray[np.int64]
    part: npt.NDArray[np.int32]
    parts: Sequence[str]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Values:
        """Return the chosen rows."""
        if chosen.all():
            return self
        return Values(
            self.rows[chosen], self.patient[chosen], self.patients, self.position[chosen], self.part[chosen], self.parts
        )
