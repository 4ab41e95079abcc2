"""The records that the online store returns: a patient's values as arrays, and the patient's stay."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LOINC = re.compile(r"([1-9]\d{0,6})-(\d)")


def code_number(loinc: str) -> int:
    """Return a LOINC code as a number, its check digit last.

    Numbers compare a hundred times faster than texts, and do not change when the vocabulary changes.

    Raises:
        ValueError: it does not have the form of a LOINC code; the error does not show it.

    >>> code_number("8867-4")
    88674
    """
    match = _LOINC.fullmatch(loinc)
    if match is None:
        message = "not the form of a LOINC code"
        raise ValueError(message)
    return int(match[1] + match[2])


@dataclass(frozen=True, slots=True)
class History:
    """Values of one patient, sorted by ``effective_us``; all arrays have the same length.

    Attributes:
        code: uint32, LOINC code as ``code_number`` gives it.
        value: float64, in the vocabulary's unit. If it is not finite, a message came without a usable value: see
            pipelines/online_store/values.py.
        effective_us: int64, the time that the value is of, microseconds since 1970 UTC.
        available_us: int64, the time at which it could be known; not before it arrived, even if the sender's clock is
            slow.
        comparator: uint8, index of the value's comparator in the online store's COMPARATORS; None: no value has one.
    """

    code: npt.NDArray[np.uint32]
    value: npt.NDArray[np.float64]
    effective_us: npt.NDArray[np.int64]
    available_us: npt.NDArray[np.int64]
    comparator: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.code)

    def known_at(self, as_of_us: int) -> History:
        """Return the values that could be known at a moment, without values whose effective time is later."""
        known = (self.available_us <= as_of_us) & (self.effective_us <= as_of_us)
        return self if known.all() else self.where(known)

    def measured(self) -> History:
        """Return the rows that have a usable value."""
        finite = np.isfinite(self.value)
        return self if finite.all() else self.where(finite)

    def where_at(self, effective_us: int) -> History:
        """Return the rows with one effective time."""
        return self.where(self.effective_us == effective_us)

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> History:
        """Return the chosen rows, by a mask or by their indexes."""
        compared = None if self.comparator is None else self.comparator[chosen]
        return History(
            self.code[chosen], self.value[chosen], self.effective_us[chosen], self.available_us[chosen], compared
        )


@dataclass(frozen=True, slots=True)
class Stay:
    """The current stay of a patient, or the last one, as far as it is known.

    Attributes:
        encounter: pseudonym of the stay.
        admitted_us: when it began, microseconds since 1970 UTC.
        discharged_us: when it ended; None while it lasts.
        age_years: completed years at admission; the lowest possible if only the year of birth is known; None: unknown.
        sex: female, male, unknown.
        unit: the patient's ward; empty: not known.
        bed: name of the bed in the hospital; empty: not known.
        pregnant: whether a diagnosis of this stay says that the patient is pregnant.
        died: how the patient is recorded as dead: see pipelines.online_store.facts.Person; empty: not dead.
        moves_us: when the patient moves to another bed, if that was reported in advance; None: it was not.
    """

    encounter: str
    admitted_us: int
    discharged_us: int | None
    age_years: float | None
    sex: str
    unit: str
    bed: str
    pregnant: bool = False
    died: str = ""
    moves_us: int | None = None
