"""Labels: the outcomes of hand-made stays, and the moments at which they are unknown."""

from __future__ import annotations

import numpy as np
import pytest

from models.tasks.labels import Ended, Label, Measured, NextStay, TimeToEvent
from models.training.outcomes import US_PER_DAY, Outcome, Row, outcomes_of, with_measured_event
from vitalake.clinical.records import History, Stay, code_number

HOUR = US_PER_DAY // 24
BACK = NextStay(within_days=30, admission_types=["ed"], died=["Expired"], unknown=["Missing"])


def row(
    number: int, begun: float, ended: float | None, how: str | None = "ed", to: str | None = "Home", *, who: str = "p"
) -> Row:
    """Return a stay, times in days."""
    discharged = None if ended is None else int(ended * US_PER_DAY)
    stay = Stay(f"s{number}", int(begun * US_PER_DAY), discharged, 60.0, "female", "", "")
    return Row(who, stay, "w", {"admission_type": how, "discharge_disposition": to})


LATER = row(99, 400, 401, who="somebody else")
"""A late admission, so that the data cover a year."""


def events(label: Label, *rows: Row) -> dict[str, bool]:
    """Return whether the event came, for each stay with a known outcome."""
    return {o.stay.encounter: o.event for o in outcomes_of(label, rows).ended if o.patient == "p"}


@pytest.mark.parametrize(
    ("stays", "expected"),
    [
        ([row(1, 0, 5)], {"s1": False}),
        ([row(1, 0, 5), row(2, 20, 25)], {"s1": True, "s2": False}),
        ([row(1, 0, 5), row(2, 35, 36)], {"s1": True, "s2": False}),  # the thirtieth day counts
        ([row(1, 0, 5), row(2, 35.1, 36)], {"s1": False, "s2": False}),
        ([row(1, 0, 5), row(2, 20, None)], {"s1": True}),  # who is back counts before the new stay ends
        ([row(1, 0, 5), row(2, 10, 11, "elective"), row(3, 15, 16)], {"s1": False, "s2": True, "s3": False}),
        ([row(1, 0, 5), row(2, 10, 11, None)], {"s2": False}),  # nobody knows whether it was planned
        ([row(1, 0, 5, to="Expired")], {}),
        ([row(1, 0, 5, to="Missing")], {}),
        ([row(1, 0, 5, to=None)], {}),
        ([row(1, 0, 5), row(2, 5, 9)], {"s2": False}),  # moved from one stay into the next
        ([row(1, 0, 5), row(2, 3, None)], {}),
        ([row(1, 0, 5), row(2, 1, 4)], {"s1": False}),  # a stay within a stay: the outer one's end is the discharge
        ([row(1, 380, 390)], {}),  # the data end first
        ([row(1, 380, 390), row(2, 395, 396)], {"s1": True}),  # but who came back came back
    ],
)
def test_a_stay_is_judged_by_the_first_one_that_begins_after_its_discharge(
    stays: list[Row], expected: dict[str, bool]
) -> None:
    assert events(BACK, *stays, LATER) == expected


def test_what_is_not_known_is_counted_and_so_is_who_is_still_there() -> None:
    found = outcomes_of(BACK, [row(1, 0, 5, to="Expired"), row(2, 0, None, who="q"), LATER])
    assert (found.ended, found.going_on, found.unknown) == ([], 1, 2)


def test_a_stay_of_another_source_is_not_judged_but_may_be_the_return() -> None:
    back = row(2, 20, 25)._replace(source="other")
    found = outcomes_of(BACK, [row(1, 0, 5), back, LATER], source="w")
    assert [(o.stay.encounter, o.event) for o in found.ended] == [("s1", True)]


def _measured(*values: tuple[float, float], code: str = "8480-6") -> History:
    hours, numbers = zip(*values, strict=True)
    times = np.array([int(hour * HOUR) for hour in hours], np.int64)
    return History(np.full(len(times), code_number(code), np.uint32), np.array(numbers), times, times)


def test_an_event_is_the_first_value_beyond_the_limit_and_moments_after_it_are_left_out() -> None:
    label = TimeToEvent(within_hours=12, event=Measured(code="8480-6", unit="mm[Hg]", below=90))
    (found,) = outcomes_of(label, [row(1, 0, 2)]).ended
    placed_at = with_measured_event(found, label, _measured((1, 120), (20, 89), (21, np.nan), (30, 60)))
    assert placed_at.event_us == 20 * HOUR
    after = {hour: placed_at.after(hour * HOUR) for hour in (2, 7, 8, 19, 20, 25)}
    assert after == {2: False, 7: False, 8: True, 19: True, 20: None, 25: None}


def test_a_value_that_is_the_limit_is_not_beyond_it_and_another_code_does_not_count() -> None:
    above = Measured(code="2524-7", unit="mmol/L", above=4)
    assert above.first_us(_measured((1, 4.0), (2, 4.1), code="2524-7")) == 2 * HOUR
    assert above.first_us(_measured((1, 9.0))) is None


def test_where_the_stay_ends_before_the_hours_are_over_nobody_knows() -> None:
    label = TimeToEvent(within_hours=12, event=Measured(code="8480-6", unit="mm[Hg]", below=90))
    (found,) = outcomes_of(label, [row(1, 0, 1)]).ended
    without = with_measured_event(found, label, _measured((1, 120)))
    assert [without.after(hour * HOUR) for hour in (6, 12, 13)] == [False, False, None]


def test_a_stay_that_ends_with_the_event_has_it_at_its_end() -> None:
    label = TimeToEvent(within_hours=24, event=Ended("discharge_disposition", ["Expired"], ["Missing"]))
    rows = [row(1, 0, 3, to="Expired"), row(2, 0, 3, who="q"), row(3, 0, 3, to="Missing", who="r")]
    found = outcomes_of(label, rows)
    assert found.unknown == 1
    died, lived = (with_measured_event(outcome, label, _measured((1, 120))) for outcome in found.ended)
    assert [died.after(hour * HOUR) for hour in (12, 48, 71, 72)] == [False, True, True, None]
    assert [lived.after(hour * HOUR) for hour in (12, 48, 49)] == [False, False, None]


def test_an_outcome_of_the_stay_is_the_same_at_all_its_moments() -> None:
    stay = Stay("s", 0, 5, None, "unknown", "", "")
    assert {Outcome("p", stay, True, "w").after(moment) for moment in (0, 3, 9)} == {True}
