"""The outcome of each stay by the task's label; one function for each kind of label."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from models.features.kernel import US_PER_HOUR
from models.tasks.labels import Ended, Label, Measured, NextStay, TimeToEvent
from models.tasks.labels import Outcome as OutcomeLabel
from vitalake.clinical.records import History, Stay

US_PER_DAY = 24 * US_PER_HOUR


class Row(NamedTuple):
    """A published stay.

    Attributes:
        patient: the pseudonym.
        stay: its ``discharged_us`` is None while it lasts.
        source: the source of the history lane, or the topic.
        columns: the values of the columns that the label reads, by name.
    """

    patient: str
    stay: Stay
    source: str
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stay that has ended, and whether the event came.

    Attributes:
        event: the event came; False also while its time has not been searched in the stay's values, see
            ``with_measured_event``.
        within_us: how soon after the moment the event must come; None: any time.
        event_us: when the event came, for labels that depend on its time.
    """

    patient: str
    stay: Stay
    event: bool
    source: str
    within_us: int | None = None
    event_us: int | None = None

    def after(self, as_of_us: int) -> bool | None:
        """Return whether the event comes after a moment; None: it came before, or it is unknown."""
        if self.within_us is None:
            return self.event
        if self.event_us is not None and self.event_us <= as_of_us:
            return None
        end = as_of_us + self.within_us
        if self.event_us is not None and self.event_us <= end:
            return True
        assert self.stay.discharged_us is not None
        return False if end <= self.stay.discharged_us else None


class Outcomes(NamedTuple):
    """The outcomes of stays.

    Attributes:
        ended: stays with a known outcome, by patient and time.
        going_on: how many stays have not ended.
        unknown: how many have ended without a known outcome; they are left out, and counted so that this is visible.
    """

    ended: list[Outcome]
    going_on: int
    unknown: int


def outcomes_of(label: Label, rows: Sequence[Row], *, source: str | None = None) -> Outcomes:
    """Return the outcomes of stays.

    Args:
        label: of the task.
        rows: all published stays, because the outcome of one can be a later stay.
        source: only stays from this source get an outcome; None: all.
    """
    mine = [row for row in rows if source in (None, row.source)]
    ended = [row for row in mine if row.stay.discharged_us is not None]
    found = _KINDS[type(label)](label, ended, rows)
    known = [outcome for outcome in found if outcome is not None]
    known.sort(key=lambda o: (o.patient, o.stay.admitted_us, o.stay.encounter))
    return Outcomes(known, len(mine) - len(ended), len(ended) - len(known))


def with_measured_event(outcome: Outcome, label: Label, during: History) -> Outcome:
    """Return an outcome with the time of the event found in the stay's values, if the label is of a measured event."""
    if not isinstance(label, TimeToEvent) or not isinstance(label.event, Measured):
        return outcome
    first_us = label.event.first_us(during)
    return replace(outcome, event=first_us is not None, event_us=first_us)


def _by_outcome(label: OutcomeLabel, ended: Sequence[Row], _rows: Sequence[Row]) -> list[Outcome | None]:
    return [
        None
        if (value := row.columns[label.column]) is None or value in label.unknown
        else _outcome(row, value in label.positive)
        for row in ended
    ]


def _by_next_stay(label: NextStay, ended: Sequence[Row], rows: Sequence[Row]) -> list[Outcome | None]:
    stays: dict[str, list[Row]] = defaultdict(list)
    followed_us: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row.stay.admitted_us, row.stay.encounter)):
        stays[row.patient].append(row)
        followed_us[row.source] = row.stay.admitted_us  # the data cover the time up to the newest admission
    return [_came_back(label, row, stays[row.patient], followed_us[row.source]) for row in ended]


def _came_back(label: NextStay, row: Row, stays: Sequence[Row], followed_us: int) -> Outcome | None:
    """Return the outcome of a stay from all stays of the patient, in order of admission; None: it is unknown."""
    disposition, discharged_us = row.columns["discharge_disposition"], row.stay.discharged_us
    assert discharged_us is not None
    if disposition is None or disposition in {*label.died, *label.unknown}:
        return None
    after = bisect.bisect_right(stays, discharged_us, key=lambda other: other.stay.admitted_us)
    before = (other.stay for other in stays[:after] if other.stay.encounter != row.stay.encounter)
    if any(other.discharged_us is None or other.discharged_us > discharged_us for other in before):
        return None  # the patient went on in another stay, at least on record
    end = discharged_us + label.within_days * US_PER_DAY
    if after < len(stays) and stays[after].stay.admitted_us <= end:
        how = stays[after].columns["admission_type"]
        return None if how is None else _outcome(row, how in label.admission_types)
    return _outcome(row, False) if end <= followed_us else None


def _by_time(label: TimeToEvent, ended: Sequence[Row], _rows: Sequence[Row]) -> list[Outcome | None]:
    within_us = int(label.within_hours * US_PER_HOUR)
    event = label.event
    if isinstance(event, Measured):
        return [replace(_outcome(row, False), within_us=within_us) for row in ended]
    return [_ended_by(event, row, within_us) for row in ended]


def _ended_by(event: Ended, row: Row, within_us: int) -> Outcome | None:
    value = row.columns[event.column]
    if value is None or value in event.unknown:
        return None
    came = value in event.positive
    return replace(_outcome(row, came), within_us=within_us, event_us=row.stay.discharged_us if came else None)


def _outcome(row: Row, event: bool) -> Outcome:
    return Outcome(row.patient, row.stay, event, row.source)


_KINDS: dict[type, Callable[[Any, Sequence[Row], Sequence[Row]], list[Outcome | None]]] = {
    OutcomeLabel: _by_outcome,
    NextStay: _by_next_stay,
    TimeToEvent: _by_time,
}
"""Kind of label → the function that returns the outcomes of ended stays, given all stays. None: an unknown outcome."""
