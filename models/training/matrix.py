"""The training matrix: one row for each stay and moment, computed by the same kernel as in serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.artefact.estimator import Floats
from models.features.kernel import US_PER_HOUR
from models.news2 import news2
from models.tasks import Task
from models.training.outcomes import Outcome, with_measured_event
from models.training.published import Published
from vitalake.clinical.records import History

BEFORE_ADMISSION_US = 2 * US_PER_HOUR
"""Values up to this long before the admission belong to the stay: monitors can start before it is recorded."""


@dataclass(frozen=True)
class Matrix:
    """Rows of features with their events, sorted by patient, stay and moment.

    Attributes:
        features: [row, column].
        event: whether the event comes after the moment, by the label.
        patient, stay: pseudonyms of each row.
        hours: the declared moment of the row, in hours after the stay's first needed value.
        as_of_us: the moment as of which it was computed.
        primary: whether figures use this row of its stay.
        news2: the (partial) total; NaN if no part is known.
        age, female: for subgroups; NaN if unknown.
    """

    features: Floats
    event: npt.NDArray[np.bool_]
    patient: npt.NDArray[np.str_]
    stay: npt.NDArray[np.str_]
    hours: npt.NDArray[np.int64]
    as_of_us: npt.NDArray[np.int64]
    primary: npt.NDArray[np.bool_]
    news2: Floats
    age: Floats
    female: Floats

    def __len__(self) -> int:
        return len(self.event)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Matrix:
        """Return the chosen rows."""
        return Matrix(**{name: getattr(self, name)[chosen] for name in Matrix.__dataclass_fields__})

    @property
    def weight(self) -> Floats:
        """Return the weight of each row: every stay weighs 1 in total, whatever its number of rows."""
        _, inverse, counts = np.unique(self.stay, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / counts[inverse])


def build_matrix(task: Task, outcomes: Sequence[Outcome], published: Published, *, age_cap: int | None) -> Matrix:
    """Return the rows of all stays in the task's cohort, at moments with a known outcome.

    Args:
        task: defines moments, features and cohort.
        outcomes: by patient and time.
        published: their values.
        age_cap: see Pinned.
    """
    names = task.features.names
    rows: list[tuple[Outcome, bool, int, int, bool, float, Floats]] = []
    for found in outcomes:
        history = published.history(found.patient)
        outcome = with_measured_event(found, task.label, within(history, found))
        mine = []
        for hours, as_of_us in moments(task, history, outcome):
            event = outcome.after(as_of_us)
            if event is None:
                continue
            row = task.vector(history, outcome.stay, as_of_us=as_of_us, age_cap=age_cap)
            if task.admits(row):
                total = news2(history, as_of_us=as_of_us).total
                mine.append((event, hours, as_of_us, np.nan if total is None else float(total), row))
        shown = max((hours for _, hours, *_ in mine if hours <= task.as_of.primary), default=None)
        rows += [(outcome, event, hours, us, hours == shown, total, row) for event, hours, us, total, row in mine]
    features = np.array([row for *_, row in rows]).reshape(len(rows), len(names))
    return Matrix(
        features=features,
        event=np.array([event for _, event, *_ in rows], np.bool_),
        patient=np.array([o.patient for o, *_ in rows], np.str_),
        stay=np.array([o.stay.encounter for o, *_ in rows], np.str_),
        hours=np.array([hours for _, _, hours, *_ in rows], np.int64),
        as_of_us=np.array([us for _, _, _, us, *_ in rows], np.int64),
        primary=np.array([shown for *_, shown, _, _ in rows], np.bool_),
        news2=np.array([total for *_, total, _ in rows], np.float64),
        age=features[:, names.index("age")],
        female=features[:, names.index("sex_female")],
    )


def within(history: History, outcome: Outcome) -> History:
    """Return the values that belong to a stay that has ended."""
    stay = outcome.stay
    assert stay.discharged_us is not None
    begun = history.effective_us >= stay.admitted_us - BEFORE_ADMISSION_US
    return history.where(begun & (history.effective_us < stay.discharged_us))


def moments(task: Task, history: History, outcome: Outcome) -> list[tuple[int, int]]:
    """Return the moments at which a stay is looked at: the declared hours, and the time of the newest value known then.

    A moment counts only during the stay, and only while values are fresh: serving would not score a patient again who
    is no longer measured.
    """
    stay, mine = outcome.stay, within(history, outcome)
    assert stay.discharged_us is not None
    needed = mine.effective_us[np.isin(mine.code, sorted(task.needed_codes()))]
    if not len(needed):
        return []
    begun = int(needed.min())
    found = []
    for hours in task.as_of.hours:
        landmark = begun + hours * US_PER_HOUR
        as_of_us = task.newest_known(mine, by_us=landmark) if landmark < stay.discharged_us else None
        if as_of_us is None or landmark - as_of_us > task.as_of.fresh_hours * US_PER_HOUR:
            continue
        if task.is_fresh(mine.known_at(as_of_us), as_of_us=as_of_us):  # a laboratory value alone does not make it fresh
            found.append((hours, as_of_us))
    return found
