"""Labels: how it is known afterwards whether the event came; each kind of them is a form of ``label`` in a task.

A label reads columns and codes of published rows. What it reads is used to judge by; features see only what was known
at the moment that they are of.
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
"""The dataset of stays: every label is of a stay."""

Codes = Annotated[list[str], Meta(min_length=1)]
Doubt = tuple[tuple[str, ...], str, str]
"""What is wrong with a label: keys on the way to it, what it is, what to do."""


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
    """How the stay itself turned out: the values of a column that count as the event, and those that do not say."""

    dataset: Literal["encounter"]
    column: str
    positive: Codes
    unknown: list[str] = []

    def doubt(self) -> Doubt | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        return _of_column((), self.column, {"positive": self.positive, "unknown": self.unknown})


class NextStay(_Form, frozen=True, tag="next_stay"):
    """Whether the same patient comes back unplanned within some days of the discharge.

    Only the first stay that begins after the discharge counts: where that is planned, none after it does. A stay is
    judged where the patient was discharged alive, and neither went on in another stay nor was discharged so late that
    the data end before the days are over: of these it is not known.

    Source: CMS, hospital-wide all-cause unplanned readmission measure (index admissions, planned first readmissions);
    NQF 1789. Left out on purpose: its table of planned procedures; what is planned is said by the type of admission.

    Attributes:
        within_days: of the discharge.
        admission_types: of the next stay, that count as unplanned.
        died: discharge dispositions of those who died in the stay; nobody can come back.
        unknown: discharge dispositions that do not say, or after which it is not asked, such as a transfer.
    """

    within_days: Annotated[int, Meta(ge=1, le=3660)]
    admission_types: Codes
    died: Codes
    unknown: list[str] = []

    @property
    def reads(self) -> Reads:
        """Return what it is read from."""
        return {STAYS: ("admission_type", "discharge_disposition")}

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes whose values it needs."""
        return ()

    def doubt(self) -> Doubt | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        ended = _of_column((), "discharge_disposition", {"died": self.died, "unknown": self.unknown})
        return ended or _of_column((), "admission_type", {"admission_types": self.admission_types})


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dataset", tag="observation"):
    """An event that is the first value of a code beyond a limit.

    Attributes:
        code: LOINC; those that count as it in the vocabulary are meant too.
        unit: of the limit: the one that the vocabulary publishes the code in.
        above, below: the limit; one of them.
    """

    code: str
    unit: str
    above: float | None = None
    below: float | None = None

    @property
    def reads(self) -> Reads:
        """Return what it is read from, beside the values that features are made of."""
        return {}

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes whose values it needs."""
        return tuple(load_vocabulary().alike(self.code))

    def first_us(self, during: History) -> int | None:
        """Return when it came first, in the values of a stay; None: never."""
        mine = during.where(np.isin(during.code, [code_number(code) for code in self.codes])).measured()
        above, below = np.nan if self.above is None else self.above, np.nan if self.below is None else self.below
        beyond = (mine.value > above) | (mine.value < below)
        return int(mine.effective_us[beyond].min()) if beyond.any() else None

    def doubt(self) -> Doubt | None:
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
            return ("event", "unit"), "Limit is in another unit than the code's values", f"Give it in {unit}."
        if (self.above is None) == (self.below is None):
            return ("event",), "Event needs one limit", "Give 'above' or 'below'."
        return None


class Ended(_StayColumn, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dataset", tag="encounter"):
    """An event that is how the stay ended, at the time at which it did: the values of a column that count as it."""

    column: str
    positive: Codes
    unknown: list[str] = []

    def doubt(self) -> Doubt | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        return _of_column(("event",), self.column, {"positive": self.positive, "unknown": self.unknown})


class TimeToEvent(_Form, frozen=True, tag="time_to_event"):
    """Whether an event comes within some hours of the moment that is looked at.

    A moment after the event is left out. Where the stay ends before the hours are over, and the event has not come,
    nobody knows: that moment is left out too.

    Attributes:
        within_hours: of the moment.
        event: what it is.
    """

    within_hours: Annotated[float, Meta(gt=0, le=8784)]
    event: Measured | Ended

    @property
    def reads(self) -> Reads:
        """Return what it is read from."""
        return self.event.reads

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes whose values it needs."""
        return self.event.codes

    def doubt(self) -> Doubt | None:
        """Return what contradicts the datasets or the vocabulary; None: nothing does."""
        return self.event.doubt()


Label = Outcome | NextStay | TimeToEvent

FORMS: dict[str, type[Label]] = {"outcome": Outcome, "next_stay": NextStay, "time_to_event": TimeToEvent}
"""The kind that a task's label names → its form. Without a kind it is an outcome."""


def _of_column(at: tuple[str, ...], name: str, texts: dict[str, list[str]]) -> Doubt | None:
    """Return which of the texts that a label names a column of stays can never have."""
    column = next((column for column in load_dataset(STAYS).columns if column.name == name), None)
    if column is None:
        return (*at, "column"), f"The dataset {STAYS} has no such column", "Name one of docs/reference/datasets.md."
    for field, named in texts.items():
        if column.values and not set(named) <= set(column.values):
            return (*at, field), f"{name} can never be that", f"It is one of: {', '.join(column.values)}."
    return None
