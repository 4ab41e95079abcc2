"""What came of each stay, by the task's label: one function for each kind of label."""

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
        stay: whose ``discharged_us`` is None while it lasts.
        source: of the history lane, or the topic.
        said: the columns that the label reads.
    """

    patient: str
    stay: Stay
    source: str
    said: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stay that has ended, and whether the event came.

    Attributes:
        event: it came; of one whose time is looked for in the stay's values: not yet looked for.
        within_us: of the moment that is looked at: so soon must it come; None: whenever.
        event_us: when it came, where that counts.
    """

    patient: str
    stay: Stay
    event: bool
    source: str
    within_us: int | None = None
    event_us: int | None = None

    def after(self, as_of_us: int) -> bool | None:
        """Return whether the event comes after a moment; None: it has come before, or nobody knows."""
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
    """How stays turned out.

    Attributes:
        ended: by patient and time.
        going_on: how many have not ended.
        unknown: how many have ended and the label does not say whether the event came: counted, for they are neither
            with nor without it.
    """

    ended: list[Outcome]
    going_on: int
    unknown: int


def judged(label: Label, rows: Sequence[Row], *, source: str | None = None) -> Outcomes:
    """Return what came of the stays.

    Args:
        label: the task's.
        rows: all published stays: what comes of one may be another.
        source: only stays from this source are judged; None: all.
    """
    mine = [row for row in rows if source in (None, row.source)]
    ended = [row for row in mine if row.stay.discharged_us is not None]
    found = _KINDS[type(label)](label, ended, rows)
    known = [outcome for outcome in found if outcome is not None]
    known.sort(key=lambda o: (o.patient, o.stay.admitted_us, o.stay.encounter))
    return Outcomes(known, len(mine) - len(ended), len(ended) - len(known))


def placed(outcome: Outcome, label: Label, during: History) -> Outcome:
    """Return an outcome with the time of an event that stands in the stay's values, where the label is of one."""
    if not isinstance(label, TimeToEvent) or not isinstance(label.event, Measured):
        return outcome
    first_us = label.event.first_us(during)
    return replace(outcome, event=first_us is not None, event_us=first_us)


def _by_outcome(label: OutcomeLabel, ended: Sequence[Row], _rows: Sequence[Row]) -> list[Outcome | None]:
    return [
        None if (said := row.said[label.column]) is None or said in label.unknown else _of(row, said in label.positive)
        for row in ended
    ]


def _by_next_stay(label: NextStay, ended: Sequence[Row], rows: Sequence[Row]) -> list[Outcome | None]:
    stays: dict[str, list[Row]] = defaultdict(list)
    followed_us: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row.stay.admitted_us, row.stay.encounter)):
        stays[row.patient].append(row)
        followed_us[row.source] = row.stay.admitted_us  # data hold admissions until the newest one
    return [_came_back(label, row, stays[row.patient], followed_us[row.source]) for row in ended]


def _came_back(label: NextStay, row: Row, stays: Sequence[Row], followed_us: int) -> Outcome | None:
    """Return the outcome of a stay by the patient's stays, in order of admission; None: it is not known."""
    disposition, discharged_us = row.said["discharge_disposition"], row.stay.discharged_us
    assert discharged_us is not None
    if disposition is None or disposition in {*label.died, *label.unknown}:
        return None
    after = bisect.bisect_right(stays, discharged_us, key=lambda other: other.stay.admitted_us)
    before = (other.stay for other in stays[:after] if other.stay.encounter != row.stay.encounter)
    if any(other.discharged_us is None or other.discharged_us > discharged_us for other in before):
        return None  # the patient went on in another stay, or did so by the books
    end = discharged_us + label.within_days * US_PER_DAY
    if after < len(stays) and stays[after].stay.admitted_us <= end:
        how = stays[after].said["admission_type"]
        return None if how is None else _of(row, how in label.admission_types)
    return _of(row, False) if end <= followed_us else None


def _by_time(label: TimeToEvent, ended: Sequence[Row], _rows: Sequence[Row]) -> list[Outcome | None]:
    within_us = int(label.within_hours * US_PER_HOUR)
    event = label.event
    if isinstance(event, Measured):
        return [replace(_of(row, False), within_us=within_us) for row in ended]
    return [_ended_by(event, row, within_us) for row in ended]


def _ended_by(event: Ended, row: Row, within_us: int) -> Outcome | None:
    said = row.said[event.column]
    if said is None or said in event.unknown:
        return None
    came = said in event.positive
    return replace(_of(row, came), within_us=within_us, event_us=row.stay.discharged_us if came else None)


def _of(row: Row, event: bool) -> Outcome:
    return Outcome(row.patient, row.stay, event, row.source)


_KINDS: dict[type, Callable[[Any, Sequence[Row], Sequence[Row]], list[Outcome | None]]] = {
    OutcomeLabel: _by_outcome,
    NextStay: _by_next_stay,
    TimeToEvent: _by_time,
}
"""Kind of label → what came of the stays that have ended; given all stays, too. None: it is not known."""
