"""What the care store gives out: a patient's values as arrays, and the stay the patient is in."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LOINC = re.compile(r"([1-9]\d{0,6})-(\d)")


def code_number(loinc: str) -> int:
    """Return a LOINC code as a number, its check digit last.

    Numbers compare a hundred times faster than texts, and mean the same whatever the vocabulary becomes.

    Raises:
        ValueError: it does not have the form of a LOINC code; it is not echoed.

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
    """Values of one patient, sorted by ``effective_us``; arrays of one length.

    Attributes:
        code: uint32, see code_number.
        value: float64, in the vocabulary's unit; what is not finite is no value but says that one came: see values.
        effective_us: int64, when it was so, microseconds since 1970 UTC.
        available_us: int64, when it could be known; of a sender whose clock is behind not before it came.
        comparator: uint8, what stands before it, by its place in the online store's COMPARATORS; None: nothing does.
    """

    code: npt.NDArray[np.uint32]
    value: npt.NDArray[np.float64]
    effective_us: npt.NDArray[np.int64]
    available_us: npt.NDArray[np.int64]
    comparator: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.code)

    def known_at(self, as_of_us: int) -> History:
        """Return what could be known at a moment; values said to be true only later are not among it."""
        known = (self.available_us <= as_of_us) & (self.effective_us <= as_of_us)
        return self if known.all() else self.where(known)

    def measured(self) -> History:
        """Return the values, without what only says that one came that is none."""
        finite = np.isfinite(self.value)
        return self if finite.all() else self.where(finite)

    def where_at(self, effective_us: int) -> History:
        """Return the rows of one moment."""
        return self.where(self.effective_us == effective_us)

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> History:
        """Return the chosen rows, by a mask or by their indexes."""
        compared = None if self.comparator is None else self.comparator[chosen]
        return History(
            self.code[chosen], self.value[chosen], self.effective_us[chosen], self.available_us[chosen], compared
        )


@dataclass(frozen=True, slots=True)
class Stay:
    """The stay a patient is in, or was in last, as far as it is known.

    Attributes:
        encounter: the stay's pseudonym.
        admitted_us: when it began, microseconds since 1970 UTC.
        discharged_us: when it ended; None while it lasts.
        age_years: completed years at admission, at least, where only the year of birth is known; None: not known.
        sex: female, male, unknown.
        unit: where the patient lies; empty: not known.
        bed: as the hospital calls it; empty: not known.
        pregnant: a diagnosis of this stay says so.
        died: the patient is recorded as dead: see pipelines.online_store.facts.Person; empty: not.
        moves_us: when another bed begins, where that is told already; None: it is not.
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
