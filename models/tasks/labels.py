"""Labels: how training finds out whether the event came; each kind is a form of ``label`` in a task's declaration.

A label reads columns and codes of published rows, also from after the moment of a prediction. Features see only what
was known at that moment.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from vitalake.clinical.records import History, code_number
from vitalake.lake.datasets.declared import load_dataset
from vitalake.vocabulary import load_vocabulary

Reads = dict[str, tuple[str, ...]]
"""Dataset → columns."""

STAYS = "encounter"
"""The dataset of stays; every label describes a stay."""

Codes = Annotated[list[str], Meta(min_length=1)]
Problem = tuple[tuple[str, ...], str, str]
"""A problem in a label: the keys on the way to it, what is wrong, what to do."""


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


class _StayColumn:
    """What labels and events have in common that one column of the stays decides."""

    __slots__ = ()
    column: str

    @property
    def reads(self) -> Reads:
        """Return the columns that are read, besides the values that features are made of."""
        return {STAYS: (self.column,)}

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes whose values are needed: none."""
        return ()


class Outcome(_StayColumn, _Form, frozen=True, tag="outcome"):
    """An outcome of the stay itself: the values of a column that count as the event, or that leave it unknown."""

    dataset: Literal["encounter"]
    column: str
    positive: Codes
    unknown: list[str] = []

    def problem(self) -> Problem | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        return _column_problem((), self.column, {"positive": self.positive, "unknown": self.unknown})


class NextStay(_Form, frozen=True, tag="next_stay"):
    """An unplanned readmission of the same patient within some days of the discharge.

    Only the first stay that begins after the discharge counts: if it is planned, no later stay counts. The label is
    unknown if the patient died, went on in another stay, or was discharged so late that the data end before the days
    are over.

    Source: CMS, hospital-wide all-cause unplanned readmission measure (index admissions, planned first readmissions);
    NQF 1789. Its table of planned procedures is left out on purpose; here the type of admission tells what is planned.

    Attributes:
        within_days: days after the discharge.
        admission_types: types of admission of the next stay that count as unplanned.
        died: discharge dispositions of patients who died in the stay.
        unknown: discharge dispositions that leave the outcome unknown, or that exclude the stay, such as a transfer.
    """

    within_days: Annotated[int, Meta(ge=1, le=3660)]
    admission_types: Codes
    died: Codes
    unknown: list[str] = []

    @property
    def reads(self) -> Reads:
        """Return the columns that are read."""
        return {STAYS: ("admission_type", "discharge_disposition")}

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes whose values are needed."""
        return ()

    def problem(self) -> Problem | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        problem = _column_problem((), "discharge_disposition", {"died": self.died, "unknown": self.unknown})
        return problem or _column_problem((), "admission_type", {"admission_types": self.admission_types})


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dataset", tag="observation"):
    """An event that is the first value of a code beyond a limit.

    Attributes:
        code: LOINC; codes that the vocabulary counts as this one are included.
        unit: of the limit; it must be the unit in which the vocabulary publishes the code.
        above, below: the limit; exactly one of them is given.
    """

    code: str
    unit: str
    above: float | None = None
    below: float | None = None

    @property
    def reads(self) -> Reads:
        """Return the columns that are read, besides the values that features are made of: none."""
        return {}

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes whose values are needed."""
        return tuple(load_vocabulary().with_near_codes(self.code))

    def first_us(self, during: History) -> int | None:
        """Return the time of the first such value among the values of a stay; None: there is none."""
        mine = during.where(np.isin(during.code, [code_number(code) for code in self.codes])).measured()
        above, below = np.nan if self.above is None else self.above, np.nan if self.below is None else self.below
        beyond = (mine.value > above) | (mine.value < below)
        return int(mine.effective_us[beyond].min()) if beyond.any() else None

    def problem(self) -> Problem | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        vocabulary = load_vocabulary()
        if self.code not in vocabulary.codes:
            return (
                ("event", "code"),
                "Code is not in the vocabulary",
                "See docs/reference/vocabulary.md.",
            )
        unit = vocabulary.unit_of[vocabulary.codes[self.code]]
        if self.unit != unit:
            return ("event", "unit"), "Limit has another unit than the code's values", f"Give it in {unit}."
        if (self.above is None) == (self.below is None):
            return ("event",), "Event needs exactly one limit", "Give either 'above' or 'below'."
        return None


class Ended(_StayColumn, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dataset", tag="encounter"):
    """An event that is the way the stay ended, at the time it ended: the values of a column that count as the event."""

    column: str
    positive: Codes
    unknown: list[str] = []

    def problem(self) -> Problem | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        return _column_problem(("event",), self.column, {"positive": self.positive, "unknown": self.unknown})


class TimeToEvent(_Form, frozen=True, tag="time_to_event"):
    """An event within some hours after the moment of prediction.

    Moments after the event are left out. So are moments for which the stay ends without the event before the hours are
    over, because the outcome is unknown.

    Attributes:
        within_hours: hours after the moment.
        event: the event.
    """

    within_hours: Annotated[float, Meta(gt=0, le=8784)]
    event: Measured | Ended

    @property
    def reads(self) -> Reads:
        """Return the columns that are read."""
        return self.event.reads

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes whose values are needed."""
        return self.event.codes

    def problem(self) -> Problem | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        return self.event.problem()


Label = Outcome | NextStay | TimeToEvent

FORMS: dict[str, type[Label]] = {"outcome": Outcome, "next_stay": NextStay, "time_to_event": TimeToEvent}
"""Kind of a label → its form. A label without a kind is an outcome."""


def _column_problem(at: tuple[str, ...], name: str, texts: dict[str, list[str]]) -> Problem | None:
    """Return the problem of a label that names a missing column of stays, or values that the column cannot have."""
    column = next((column for column in load_dataset(STAYS).columns if column.name == name), None)
    if column is None:
        return (
            (*at, "column"),
            f"The dataset {STAYS} has no such column",
            "Choose a column from docs/reference/datasets.md.",
        )
    for field, named in texts.items():
        if column.values and not set(named) <= set(column.values):
            return (*at, field), f"{name} cannot have this value", f"It is one of: {', '.join(column.values)}."
    return None
